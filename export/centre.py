"""Centred activations: the same network, less to lose in bf16 and fp16.

Instance normalisation does not care where its input lies, or how far it spreads, so the convolution before it may give
its channels any mean and scale. With those of photographs taken out, what bf16 rounds is the deviation instead of
mean plus deviation. Measured on mosaic in bf16: a photograph at 3840x2160 gains 3.5 dB, a smooth pattern 0.8 to 3.3 dB,
photographs at their own size nothing; it costs nothing at run time. It also keeps fp16 far from overflow.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .parity import Picture
from .pictures import crop_to_stride

if TYPE_CHECKING:
    from ..training.networks import TransformationNetwork

Moments = tuple[npt.NDArray[np.float64], float]
"""Mean of each channel (C,) and one standard deviation for all of a layer, since its epsilon is one number too."""


def norm_input_moments(network: "TransformationNetwork", photographs: Sequence[Picture]) -> list[Moments]:
    """What reaches each normalisation, in the order in which they run, over all photographs."""
    import torch

    from ..training.instance_norm import InstanceNorm

    sums: dict[int, Any] = {}

    def collect(norm: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].double()
        count, total, squares = sums.get(id(norm), (0, 0.0, 0.0))
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        sums[id(norm)] = (count + pixels, total + x.sum((0, 2, 3)), squares + (x * x).sum((0, 2, 3)))

    norms = [module for module in network.modules() if isinstance(module, InstanceNorm)]
    hooks = [norm.register_forward_pre_hook(collect) for norm in norms]
    try:
        with torch.inference_mode():
            for photo in photographs:
                picture = torch.from_numpy(crop_to_stride(photo, network.stride))
                network(picture.permute(2, 0, 1)[None].float())
    finally:
        for hook in hooks:
            hook.remove()
    moments = []
    for count, total, squares in sums.values():
        mean = (total / count).numpy()
        variance = (squares / count).numpy() - mean**2
        moments.append((mean, float(np.sqrt(max(variance.mean(), 1e-12)))))
    return moments


def centre_activations(model: Any, moments: Sequence[Moments]) -> None:
    """Take means and scales out of the convolutions before the graph's normalisations, in place."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    norms = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    if len(norms) != len(moments):
        raise ValueError(f"moments must be given for each of {len(norms)} normalisations, got {len(moments)}")
    for norm, (mean, deviation) in zip(norms, moments, strict=True):
        convolution = producers[norm.input[0]]
        if convolution.op_type not in ("Conv", "ConvTranspose") or len(convolution.input) < 3:
            continue
        _change(weights[convolution.input[1]], 0.0, deviation)
        _change(weights[convolution.input[2]], mean, deviation)
        epsilon = next(attribute for attribute in norm.attribute if attribute.name == "epsilon")
        epsilon.f = epsilon.f / deviation**2


def _change(tensor: Any, subtracted: npt.NDArray[np.float64] | float, divisor: float) -> None:
    from onnx import numpy_helper

    values = (numpy_helper.to_array(tensor).astype(np.float64) - subtracted) / divisor
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
