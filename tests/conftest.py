"""Fixtures that several suites share."""

import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from impasto.export.artifact import Artifact, Metadata, save_artifact
from impasto.realtime.engine import Batch, Done, EngineInfo, PendingPicture

if TYPE_CHECKING:
    from .train_helpers import MakeConfig


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's real material, which is not part of the repository."""
    folder = Path(os.environ.get("IMPASTO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set IMPASTO_SHARED_DATA")
    return folder


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread of ours running: every thread has an owner who joins it."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("impasto")]
    for thread in left:
        thread.join(30.0)
    alive = [t.name for t in left if t.is_alive()]
    assert not alive, f"threads left running: {alive}"


@pytest.fixture
def windows_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV as on Windows, where it opens no file whose name goes beyond ASCII."""
    import cv2

    read, write = cv2.imread, cv2.imwrite
    monkeypatch.setattr(cv2, "imread", lambda name, *rest: read(name, *rest) if name.isascii() else None)
    monkeypatch.setattr(cv2, "imwrite", lambda name, *rest: name.isascii() and write(name, *rest))


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small video: make_clip("vfr.mp4", times=[0, 40, 100], time_base=Fraction(1, 600), sound=True)."""

    def make(
        name: str = "clip.mp4",
        *,
        codec: str = "libx264",
        pixel_format: str = "yuv420p",
        height: int = 48,
        width: int = 64,
        times: Sequence[int] = tuple(512 * n for n in range(12)),
        time_base: Fraction = Fraction(1, 12_800),
        rate: Fraction = Fraction(25),
        sound: bool = False,
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
        prepare: Callable[[av.VideoStream], None] | None = None,
        draw: Callable[[int, int, int], np.ndarray] | None = None,
    ) -> Path:
        path = tmp_path_factory.mktemp("clip") / name
        draw = draw or numbered_picture
        with av.open(str(path), "w", options=container_options or {}) as container:
            video = container.add_stream(codec, rate=rate, options=options or {})
            video.width, video.height, video.pix_fmt = width, height, pixel_format
            video.codec_context.time_base = video.time_base = time_base
            if prepare:
                prepare(video)
            audio = container.add_stream("aac", rate=44_100) if sound else None
            for number, ticks in enumerate(times):
                frame = av.VideoFrame.from_ndarray(draw(number, height, width), format="rgb24")
                frame = frame.reformat(format=pixel_format)
                frame.pts, frame.time_base = ticks, time_base
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if audio:
                _add_sound(container, audio, float(times[-1] * time_base))
        return path

    return make


def numbered_picture(number: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: a soft colour gradient that moves; the eight blocks on top spell `number` in binary."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([40 + x * 150 // width, 40 + y * 150 // height, (x + y + 5 * number) % 200], -1).astype(np.uint8)
    block = width // 8
    for bit in range(8):
        picture[: height // 3, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 20
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number that `numbered_picture` wrote, read back from a decoded picture."""
    height, width = picture.shape[:2]
    block = width // 8
    blocks = picture[: height // 3, : block * 8].reshape(height // 3, 8, block, 3)
    return sum(1 << bit for bit, bright in enumerate(blocks.mean((0, 2, 3)) > 128) if bright)


@pytest.fixture(scope="session")
def read_number() -> Callable[[np.ndarray], int]:
    return number_of


def _add_sound(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    rng = np.random.default_rng(0)
    for start in range(0, int(seconds * 44_100) + 1024, 1024):
        frame = av.AudioFrame.from_ndarray(
            (rng.normal(0, 0.1, (1, 1024))).astype(np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = 44_100, start, Fraction(1, 44_100)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def exif_block(orientation: int) -> bytes:
    """How a picture is to be turned, as PNG and WebP have it; in JPEG `Exif\\0\\0` stands before it."""
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation]) + bytes(6)


def with_exif(picture: bytes, orientation: int) -> bytes:
    """A PNG, or a lossless WebP with transparency, as OpenCV writes them, with an EXIF block on how to turn it."""
    exif = exif_block(orientation)
    if picture.startswith(b"\x89PNG"):
        chunk = b"eXIf" + exif
        chunk = len(exif).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        return picture[:33] + chunk + picture[33:]  # behind the header
    bits = int.from_bytes(picture[21:25], "little")
    sides = (bits & 0x3FFF).to_bytes(3, "little") + (bits >> 14 & 0x3FFF).to_bytes(3, "little")
    chunks = b"WEBPVP8X\x0a\0\0\0\x18\0\0\0" + sides + picture[12:]
    chunks += b"EXIF" + len(exif).to_bytes(4, "little") + exif
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks


def noise(*shape: int, seed: int = 0) -> Batch:
    """Blurred random pictures (N, H, W, 3): smooth as photographs are, and different everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (shape[0], 9, 9, 3)).astype(np.float32)
    rows, columns = (np.linspace(0, 7.999, size) for size in shape[1:3])
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = (rows - r)[None, :, None, None], (columns - c)[None, None, :, None]
    top = coarse[:, r][:, :, c] * (1 - fc) + coarse[:, r][:, :, c + 1] * fc
    below = coarse[:, r + 1][:, :, c] * (1 - fc) + coarse[:, r + 1][:, :, c + 1] * fc
    return np.rint(top * (1 - fr) + below * fr).astype(np.uint8)


def chroma(picture: np.ndarray) -> np.ndarray:
    """Cb and Cr of BT.601 without their offset of 128, of (H, W, 3) uint8: (H, W, 2) in [-127.5, 127.5]."""
    rgb = picture.astype(np.float64)
    y = rgb @ np.array([0.299, 0.587, 0.114])
    return np.stack([rgb[:, :, 2] - y, rgb[:, :, 0] - y], axis=2) / np.array([1.772, 1.402])


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The address under which a folder's files can be fetched."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def exports_remembered(where: ModuleType) -> Iterator[None]:
    """PyTorch's exporter takes seconds: it runs once for each network, and its answer is handed out again."""
    real, answers = where.torch_export, {}

    def export(module: Any, examples: tuple[Any, ...], **names: object) -> onnx.ModelProto:
        key = repr(([(name, tensor.sum().item()) for name, tensor in module.state_dict().items()], names))
        if key not in answers:
            answers[key] = real(module, examples, **names).SerializeToString()
        return onnx.ModelProto.FromString(answers[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, "torch_export", export)
        yield


@pytest.fixture
def served(
    tmp_path: Path,
    make_artifact: Callable[..., Artifact],
    identity_model: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SimpleNamespace]:
    """A live session with a panel; see `panel_helpers`."""
    pytest.importorskip("aiohttp")
    from .panel_helpers import serve

    with serve(tmp_path, make_artifact, identity_model, monkeypatch) as running:
        yield running


@pytest.fixture
def make_config(tmp_path: Path, tiny_loss_weights: Path) -> "MakeConfig":
    """Settings of a training of seconds; see `train_helpers`."""
    from .train_helpers import config_maker

    return config_maker(tmp_path, tiny_loss_weights)


class PlainEngine:
    """Gives every picture back; three batches at once."""

    info = EngineInfo("plain", "CPU", "fp32")
    stride = 4
    in_flight = 3

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        assert frames.shape[1] % self.stride == frames.shape[2] % self.stride == 0
        return frames.copy()

    def submit(self, frames: np.ndarray) -> PendingPicture:
        return PendingPicture(Done({"stylized": self(frames)}))

    def warmup(self, height: int, width: int) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> PlainEngine:
    """No library behind the styles of `realtime.video`: quick, for suites about everything but engines."""
    engine = PlainEngine()
    monkeypatch.setattr("impasto.realtime.video_engines.load_engine", lambda artifact, **options: engine)
    return engine


@pytest.fixture(scope="session")
def identity_model() -> onnx.ModelProto:
    """A model under the artifact's contract that gives every picture back."""
    return picture_model([helper.make_node("Identity", ["x"], ["y"])], {})


@pytest.fixture(scope="session")
def small_model() -> onnx.ModelProto:
    """A network in miniature, random weights: every operator of a real artifact, stride 2."""
    rng = np.random.default_rng(0)
    weights = {
        "down": rng.normal(0, 0.02, (8, 3, 3, 3)).astype(np.float32),
        "scale": rng.uniform(0.5, 1.5, 8).astype(np.float32),
        "shift": rng.normal(0, 0.5, 8).astype(np.float32),
        "body": rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32),
        "up": rng.normal(0, 4, (8, 3, 4, 4)).astype(np.float32),
        "grey": np.full(3, 128, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "down"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("InstanceNormalization", ["a", "scale", "shift"], ["b"], epsilon=1e-5),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "body"], ["d"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("InstanceNormalization", ["d", "scale", "shift"], ["d2"], epsilon=1e-5),
        helper.make_node("Add", ["c", "d2"], ["e"]),
        helper.make_node(
            "ConvTranspose", ["e", "up", "grey"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[4, 4]
        ),
    ]
    return picture_model(nodes, weights)


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """Write a model as an artifact: make_artifact(model, name="x", stride=2)."""

    def make(model: onnx.ModelProto, *, name: str = "test", stride: int = 1, **metadata: object) -> Artifact:
        folder = tmp_path_factory.mktemp("artifact")
        return save_artifact(
            model, Metadata(name=name, tier="fast", stride=stride, **metadata), folder / f"{name}.fast.onnx"
        )

    return make


@pytest.fixture(scope="session")
def identity_artifact(make_artifact: Callable[..., Artifact], identity_model: onnx.ModelProto) -> Artifact:
    """Paints every picture as it is; stride 1."""
    return make_artifact(identity_model, name="identity")


@pytest.fixture(scope="session")
def small_artifact(make_artifact: Callable[..., Artifact], small_model: onnx.ModelProto) -> Artifact:
    """A network in miniature; stride 2."""
    return make_artifact(small_model, name="small", stride=2)


def picture_model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Nodes from `x` to `y`, (N, 3, H, W) float, between the artifact's bytes in and bytes out."""
    weights = weights | {"low": np.float32(0), "high": np.float32(255)}
    frame_shape = ["n", "h", "w", 3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
            *nodes,
            helper.make_node("Round", ["y"], ["rounded"]),
            helper.make_node("Clip", ["rounded", "low", "high"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["bytes"], to=TensorProto.UINT8),
            helper.make_node("Transpose", ["bytes"], ["stylized"], perm=[0, 2, 3, 1]),
        ],
        "stylize",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, frame_shape)],
        [helper.make_tensor_value_info("stylized", TensorProto.UINT8, frame_shape)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def tiny_loss_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loss network in miniature with random weights, up to relu5_1: enough to train against, quick, ours."""
    torch = pytest.importorskip("torch", reason="training needs torch")
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    state, inner = {}, 3
    for block, (count, width) in enumerate([(2, 4), (2, 6), (4, 8), (4, 8), (1, 8)], 1):
        for i in range(1, count + 1):
            scale = (2 / (9 * inner)) ** 0.5  # He initialisation: activations keep their size with depth
            state[f"conv{block}_{i}.weight"] = torch.randn(width, inner, 3, 3, generator=generator) * scale
            state[f"conv{block}_{i}.bias"] = torch.rand(width, generator=generator) * 0.1
            inner = width
    path = tmp_path_factory.mktemp("loss") / "tiny.safetensors"
    save_file(state, path)
    return path
