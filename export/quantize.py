"""int8 for CPUs: post-training quantisation by NNCF, calibrated on photographs, kept only where it pays.

What is quantised follows from measurement (mosaic, fast tier, 4 cores with AMX, beside bf16 in the same run): the
residual blocks' and strided convolutions gain up to half their time; the first and last convolution lose 1.4 dB and
gain nothing; transposed convolutions answer in fp32 and lose the gain in conversions; sums and normalisations between
two 8-bit roundings cost 2 to 5 dB. Activations are quantised symmetrically, because OpenVINO runs a convolution whose
input has a zero point of its own in fp32 when it comes from ONNX. The result: 48 to 50 dB instead of 42.

The quantised network is an ordinary artifact with QuantizeLinear and DequantizeLinear nodes, `NAME.TIER.int8.onnx`
beside the one that it was made from.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifact import Artifact, Parity, load_artifact, parse_model, quantized_path, save_artifact
from .errors import ArtifactError
from .parity import Candidate, Paint, Painter, Picture, check_floor, compare
from .pictures import crop_to_stride
from .to_onnx import store_weights_as_half, torch_reference

if TYPE_CHECKING:
    import onnx

_MEND = "pip install 'impasto[train,quantize]' onnxruntime"
_LEFT_ALONE = ["InstanceNormalization", "Add", "Sub", "Mul", "Div", "ConvTranspose"]
TIMED_SIZE = (720, 1280)
TIMED_ROUNDS = 12
TIMED_IN_FLIGHT = 4


def quantize(
    artifact: Artifact | Path,
    output: Path | None = None,
    *,
    calibration: Sequence[Picture],
    photographs: Sequence[Picture],
    candidates: Sequence[Candidate],
    reference: Callable[[Artifact], Paint] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Artifact:
    """Write the int8 version of an artifact, if it is near enough to PyTorch and faster than any float precision.

    Args:
        artifact: what `export_onnx` wrote.
        output: where to write; by default `quantized_path`.
        calibration: (H, W, 3) uint8 RGB, from which the ranges of activations are taken.
        photographs: (H, W, 3) uint8 RGB, others than for calibration, on which parity is measured.
        candidates: engines of this machine's processor; every library must pass the gate, the first one is timed.
        reference: what parity is measured against; by default the artifact's own network in PyTorch, fp32.
        overwrite: replace an existing file.
        on_progress: gets one line per step.

    Raises:
        ArtifactError: int8 is not faster here, or too far from PyTorch.
    """
    artifact = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
    output = output or quantized_path(artifact.path)
    if output.suffix != ".onnx":
        raise ArtifactError(f"an artifact's name must end in .onnx, got {output}")
    if output.exists() and not overwrite:
        raise ArtifactError(f"{output} must not exist yet: choose another name or pass --overwrite")
    if artifact.metadata.kind != "single" or artifact.metadata.precision == "int8":
        raise ArtifactError(f"{artifact.path} must hold one style in float to be quantised")
    if not candidates or not calibration or not photographs:
        raise ArtifactError("an engine for the processor and photographs must be there to quantise with")
    stride = artifact.metadata.stride
    paint = (reference or pytorch_reference)(artifact)
    on_progress(f"calibrating on {len(calibration)} photographs")
    model = quantize_model(parse_model(artifact), [crop_to_stride(photo, stride) for photo in calibration])
    metadata = replace(artifact.metadata, precision="int8", parity=())
    with TemporaryDirectory(prefix="impasto-") as folder:
        quantized = save_artifact(model, metadata, Path(folder) / "candidate.onnx")
        pictures = [crop_to_stride(photo, stride) for photo in photographs]
        parity = _prove(quantized, [(picture, paint(picture)) for picture in pictures], candidates, on_progress)
        timed = [candidate for candidate in candidates if candidate.name == candidates[0].name]
        ratios = _time_ratios(artifact, quantized, timed, on_progress)
    if max(ratios) >= 1:
        raise ArtifactError(
            f"int8 must be faster to be worth a file, but takes {max(ratios):.2f} of the float time here: none written"
        )
    on_progress(f"int8 is kept: {1 / max(ratios):.2f} times as fast or more, and near enough")
    return save_artifact(model, replace(metadata, parity=parity), output, overwrite=overwrite)


def pytorch_reference(artifact: Artifact) -> Paint:
    """The artifact's own network in PyTorch, in fp32."""
    _need_torch()
    from .to_torch import rebuild_network

    return torch_reference(rebuild_network(artifact))


def checkpoint_reference(checkpoint: Path) -> Paint:
    """The network as it was trained, in PyTorch, in fp32."""
    _need_torch()
    from ..training.checkpoint import load_checkpoint

    return torch_reference(load_checkpoint(checkpoint).build())


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise ArtifactError(f"PyTorch must be installed, int8 is measured against it: {_MEND}")


def _prove(
    quantized: Artifact,
    pairs: Sequence[tuple[Picture, Picture]],
    candidates: Sequence[Candidate],
    on_progress: Callable[[str], None],
) -> tuple[Parity, ...]:
    """Parity of every library's int8 with the reference; `pairs` are photographs and what they should become."""
    results = []
    for candidate in {candidate.name: candidate for candidate in candidates}.values():
        with candidate.open(quantized) as painted:
            parity = compare(
                [(wanted, painted(picture)) for picture, wanted in pairs], precision="int8", engine=candidate.name
            )
        on_progress(f"{parity.engine} int8: {parity.psnr_db:.1f} dB to PyTorch fp32")
        check_floor(parity)
        results.append(parity)
    return tuple(results)


def quantize_model(model: "onnx.ModelProto", calibration: Sequence[Picture]) -> "onnx.ModelProto":
    """The network with int8 convolutions between the first and the last; other weights stored as fp16."""
    # NNCF reports its use to its makers unless it believes itself in CI; a style is its owner's business.
    os.environ.setdefault("NNCF_CI", "1")
    try:
        import nncf
    except ImportError as exc:
        raise ArtifactError(f"NNCF must be installed to quantise: {_MEND}") from exc
    _unfold_half_weights(model)
    for index, node in enumerate(model.graph.node):  # NNCF knows nodes by name
        node.name = f"{node.op_type}_{index}"
    convolutions = [node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    if len(convolutions) < 3:
        raise ArtifactError(f"a network must have 3 convolutions or more to be quantised, got {len(convolutions)}")
    # Not nncf.set_log_level: it changes whatever handler hangs on that logger, a test runner's for all loggers too.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with redirect_stdout(StringIO()):  # its progress bars
        quantized: onnx.ModelProto = nncf.quantize(
            model,
            nncf.Dataset([{"frame": picture[np.newaxis]} for picture in calibration]),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(
                names=[convolutions[0], convolutions[-1]], types=_LEFT_ALONE, validate=False
            ),
        )
    store_weights_as_half(quantized)
    return quantized


def _unfold_half_weights(model: Any) -> None:
    """Weights stored as fp16 behind a cast become fp32: NNCF looks for constants, not for casts of constants."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in stored]:
        tensor = stored[node.input[0]]
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)


def _time_ratios(
    artifact: Artifact, quantized: Artifact, candidates: Sequence[Candidate], on_progress: Callable[[str], None]
) -> list[float]:
    """Time of int8 over that of the fastest float precision, one frame at a time and several in flight.

    Both are timed in turns and the best round counts, so that other load does not decide.
    """
    ratios = []
    for what, in_flight in (("one frame at a time", 1), (f"{TIMED_IN_FLIGHT} in flight", TIMED_IN_FLIGHT)):
        best = [_best_times(candidate, artifact, quantized, in_flight) for candidate in candidates]
        ratios.append(max(int8 / float_ for float_, int8 in best))
        floats = ", ".join(
            f"{candidate.precision} {float_:.1f} ms" for candidate, (float_, _) in zip(candidates, best, strict=True)
        )
        int8_ms = min(int8 for _, int8 in best)
        on_progress(f"1280x720, {what}: int8 {int8_ms:.1f} ms, {floats}: {ratios[-1]:.2f} of the fastest")
    return ratios


def _best_times(candidate: Candidate, artifact: Artifact, quantized: Artifact, in_flight: int) -> tuple[float, float]:
    """Milliseconds a frame of the float network in the candidate's precision, and of the int8 one."""
    frames = [np.random.default_rng(0).integers(0, 256, (*TIMED_SIZE, 3), dtype=np.uint8)] * in_flight
    with candidate.open(artifact, in_flight) as float_paint, candidate.open(quantized, in_flight) as int8_paint:
        times: tuple[list[float], list[float]] = ([], [])
        for round_ in range(TIMED_ROUNDS + 4):
            for paint, taken in zip((float_paint, int8_paint), times, strict=True):
                milliseconds = _milliseconds(paint, frames)
                if round_ >= 4:  # the first of a size are for compiling
                    taken.append(milliseconds)
    return min(times[0]), min(times[1])


def _milliseconds(paint: Painter, frames: Sequence[Picture]) -> float:
    start = time.perf_counter()
    paint.several(frames)
    return (time.perf_counter() - start) * 1e3 / len(frames)
