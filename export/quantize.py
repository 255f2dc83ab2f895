"""int8 for CPUs: post-training quantisation by NNCF, calibrated on photographs, kept only where it pays.

What is quantised follows from measurement (mosaic, fast tier, 4 cores with AMX, beside bf16 in the same run): the
residual blocks' and strided convolutions gain up to half their time; the first and last convolution lose 1.4 dB and
gain nothing; transposed convolutions answer in fp32 and lose the gain in conversions; sums and normalisations between
two 8-bit roundings cost 2 to 5 dB. Activations are quantised symmetrically, because OpenVINO runs a convolution whose
input has a zero point of its own in fp32 when it comes from ONNX. The result: 48 to 50 dB instead of 42.

The quantised network is an ordinary artifact with QuantizeLinear and DequantizeLinear nodes, `NAME.TIER.int8.onnx`
beside the one that it was made from.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifact import Artifact, load_artifact, parse_model, quantized_path, save_artifact
from .errors import ArtifactError
from .parity import Candidate, Paint, Picture, check_floor, compare
from .pictures import crop_to_stride
from .to_onnx import store_weights_as_half

if TYPE_CHECKING:
    import onnx

_MEND = "pip install 'impasto[quantize]' onnxruntime"
_LEFT_ALONE = ["InstanceNormalization", "Add", "Sub", "Mul", "Div", "ConvTranspose"]
TIMED_SIZE = (720, 1280)
TIMED_ROUNDS = 12


def quantize(
    artifact: Artifact | Path,
    output: Path | None = None,
    *,
    calibration: Sequence[Picture],
    photographs: Sequence[Picture],
    candidates: Sequence[Candidate],
    overwrite: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Artifact:
    """Write the int8 version of an artifact, if it is near enough to fp32 and faster than any float precision.

    Args:
        artifact: what `export_onnx` wrote.
        output: where to write; by default `quantized_path`.
        calibration: (H, W, 3) uint8 RGB, from which the ranges of activations are taken.
        photographs: (H, W, 3) uint8 RGB, others than for calibration, on which parity is measured.
        candidates: engines of one device; those in fp32 are the reference, and the first is what int8 runs in.
        overwrite: replace an existing file.
        on_progress: gets one line per step.

    Raises:
        ArtifactError: int8 is not faster here, or too far from fp32.
    """
    artifact = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
    output = output or quantized_path(artifact.path)
    if output.exists() and not overwrite:
        raise ArtifactError(f"{output} must not exist yet: choose another name or pass --overwrite")
    reference = next((candidate for candidate in candidates if candidate.precision == "fp32"), None)
    if reference is None or not calibration or not photographs:
        raise ArtifactError("an fp32 engine and photographs must be there to quantise with")
    stride = artifact.metadata.stride
    on_progress(f"calibrating on {len(calibration)} photographs")
    model = quantize_model(parse_model(artifact), [crop_to_stride(photo, stride) for photo in calibration])
    metadata = replace(artifact.metadata, precision="int8", parity=())
    with TemporaryDirectory(prefix="impasto-") as folder:
        quantized = save_artifact(model, metadata, Path(folder) / "candidate.onnx")
        pictures = [crop_to_stride(photo, stride) for photo in photographs]
        with reference.open(artifact) as wanted, candidates[0].open(quantized) as painted:
            pairs = [(wanted(picture), painted(picture)) for picture in pictures]
        parity = compare(pairs, precision="int8", engine=candidates[0].name)
        on_progress(f"{parity.engine} int8: {parity.psnr_db:.1f} dB to fp32")
        check_floor(parity)
        ratio = _time_ratio(artifact, quantized, candidates)
        on_progress(f"int8 takes {ratio:.2f} of the time of the fastest float precision at 1280x720")
        if ratio >= 1:
            raise ArtifactError(f"int8 must be faster to be worth a file, but takes {ratio:.2f} of the float time here")
    return save_artifact(model, replace(metadata, parity=(parity,)), output, overwrite=overwrite)


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
    nncf.set_log_level(40)
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


def _time_ratio(artifact: Artifact, quantized: Artifact, candidates: Sequence[Candidate]) -> float:
    """Median time of int8 over that of the fastest float precision, timed in turns so that load hits all alike."""
    frame = np.random.default_rng(0).integers(0, 256, (*TIMED_SIZE, 3), dtype=np.uint8)
    floats = [_median_times(candidate, artifact, candidates[0], quantized, frame) for candidate in candidates]
    return max(int8 / float_ for float_, int8 in floats)


def _median_times(
    candidate: Candidate, artifact: Artifact, int8_candidate: Candidate, quantized: Artifact, frame: Picture
) -> tuple[float, float]:
    with candidate.open(artifact) as float_paint, int8_candidate.open(quantized) as int8_paint:
        times: tuple[list[float], list[float]] = ([], [])
        for round_ in range(TIMED_ROUNDS + 4):
            for paint, taken in zip((float_paint, int8_paint), times, strict=True):
                seconds = _seconds(paint, frame)
                if round_ >= 4:  # the first of a size are for compiling
                    taken.append(seconds)
    return statistics.median(times[0]), statistics.median(times[1])


def _seconds(paint: Paint, frame: Picture) -> float:
    start = time.perf_counter()
    paint(frame)
    return time.perf_counter() - start
