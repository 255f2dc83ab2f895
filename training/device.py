"""Where PyTorch computes."""

import torch

from .errors import TrainingError


def torch_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU if there is one.

    Raises:
        TrainingError: torch cannot use it here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as exc:  # torch without CUDA raises AssertionError
        raise TrainingError(f"device must be one that torch can use here, got {name!r}: {exc}") from exc
    return device
