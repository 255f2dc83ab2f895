"""Artifact back to PyTorch, to run it or to train on: it holds weights and the network's configuration."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifact import Artifact, parse_model
from .errors import ArtifactError

if TYPE_CHECKING:
    import torch

    from ..training.checkpoint import Checkpoint


def rebuild_network(artifact: Artifact) -> "torch.nn.Module":
    """The PyTorch network with the artifact's weights, upsampling folded as in the graph.

    Raises:
        ArtifactError: the artifact is not one style in float, or does not say which network it holds.
    """
    import torch
    from onnx import numpy_helper

    from ..training.networks import NetworkConfig, build_network, for_export

    if artifact.metadata.precision == "int8" or artifact.metadata.kind != "single":
        raise ArtifactError(f"{artifact.path} must hold one style in float for PyTorch to run it")
    try:
        network = for_export(build_network(NetworkConfig(**artifact.metadata.training["network"])))
    except (KeyError, TypeError, ValueError) as exc:
        raise ArtifactError(f"{artifact.path} must say which network it holds for PyTorch to run it") from exc
    graph = parse_model(artifact).graph
    weights = {
        tensor.name.removeprefix("inner.").removesuffix(".half"): numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in graph.initializer
        if tensor.name.startswith("inner.")
    }
    try:
        network.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    except RuntimeError as exc:
        reason = " ".join(str(exc).split())[:200]
        raise ArtifactError(f"{artifact.path} must hold the weights of its network: {reason}") from exc
    for node in graph.node:  # centred activations brought an epsilon of their own
        if node.op_type == "InstanceNormalization":
            norm: Any = network.get_submodule(node.input[1].removeprefix("inner.").removesuffix(".weight"))
            norm.eps = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
    return network


def rebuild_checkpoint(artifact: Artifact) -> "Checkpoint":
    """What was exported: the same network but for the rounding of its weights, with what is known of its training.

    Raises:
        ArtifactError: as `rebuild_network`.
    """
    from ..training.checkpoint import Checkpoint
    from ..training.instance_norm import InstanceNorm
    from ..training.networks import from_export

    folded: Any = rebuild_network(artifact)
    for convolution, norm in folded.normalised():
        # Centred activations were divided by what their epsilon tells. The mean taken out makes no difference.
        if not norm.eps > 0:
            raise ArtifactError(f"{artifact.path} must have epsilons above 0 to be trained on, got {norm.eps:g}")
        deviation = (InstanceNorm.eps / norm.eps) ** 0.5
        for parameter in convolution.parameters():
            parameter.data *= deviation
    known = artifact.metadata
    metadata = {
        "name": known.name,
        "tier": known.tier,
        "style": asdict(known.style),
        "training": {key: value for key, value in known.training.items() if key not in ("network", "step")},
        "step": known.training.get("step"),
        "losses": dict(known.losses),
    }
    return Checkpoint(folded.config, from_export(folded).state_dict(), metadata)
