"""Checks that configurations share: `<what> must be <rule>, got <value>`, each over fields by their names."""

import math
import re
from collections.abc import Sequence
from typing import Any


def check_at_least_one(config: Any, *names: str) -> None:
    """Counts."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def check_not_negative(config: Any, *names: str) -> None:
    """Weights; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more, got {value}")


def check_positive(config: Any, *names: str) -> None:
    """Rates and scales."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be greater than 0, got {getattr(config, name)}")


def check_share(config: Any, *names: str) -> None:
    """Shares of a whole that must be neither none of it nor all."""
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {getattr(config, name)}")


def check_choice(config: Any, name: str, choices: Sequence[str]) -> None:
    """One of a few words."""
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}")


def check_name(config: Any) -> None:
    """`name`: that of an artifact, which becomes a file's and must not lead out of the folder."""
    name = config.name
    if not isinstance(name, str) or not name.isprintable() or not re.fullmatch(r"(?!\.)[^/\\:]{1,100}", name):
        raise ValueError(
            f"name must be 1 to 100 printable characters without / \\ : and not begin with a dot, got {name!r}"
        )


def check_crop(config: Any, *, multiple: int) -> None:
    """`crop_size`, which the networks must be able to halve again and again."""
    if config.crop_size < 64 or config.crop_size % multiple:
        raise ValueError(f"crop_size must be a multiple of {multiple} and at least 64, got {config.crop_size}")


def check_loop(config: Any) -> None:
    """What the training loop needs, whatever it trains."""
    check_at_least_one(config, "steps", "batch_size", "checkpoint_every", "sample_every")
    check_positive(config, "learning_rate")
    check_not_negative(config, "content_weight", "style_weight", "tv_weight", "motion_weight")
    check_share(config, "structure")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must be in 0…{2**32 - 1}, got {config.seed}")
