"""`impasto doctor` and `impasto bench` tell the truth, in words and in JSON."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from impasto.export.artifact import Artifact, parse_model, quantized_path, save_artifact
from impasto.realtime import bench as bench_module
from impasto.realtime import cli_bench, cli_doctor, doctor
from impasto.realtime.bench import BenchOptions, Measurement, bench
from impasto.realtime.camera import CameraInfo
from impasto.realtime.engine import BACKENDS, Backend, EngineOptions, Precision
from impasto.realtime.errors import EngineError, SinkError

runner = CliRunner()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SIZES", {"tiny": (64, 96)})
    monkeypatch.setattr(bench_module, "PEAK_SHAPES", ((64, 4), (32, 2)))
    monkeypatch.setattr(bench_module, "PEAK_SECONDS", 0.01)
    monkeypatch.setattr(cli_bench, "NAMED_SIZES", {"tiny": (64, 96), "360p": (64, 64), "720p": (96, 96)})


@pytest.fixture
def one_style(monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact) -> None:
    monkeypatch.setattr(cli_doctor, "styles_to_try", lambda: {"fast": small_artifact.path})


def paints_here() -> bool:
    for backend in BACKENDS:
        try:
            if backend.precisions():
                return True
        except EngineError:
            continue
    return False


def test_every_engine_is_listed_and_the_working_ones_are_timed(one_style: None) -> None:
    done = runner.invoke(cli_doctor.app, ["--json"])
    assert done.exit_code == (0 if paints_here() else 5), done.output
    found = json.loads(done.stdout)
    assert [engine["name"] for engine in found["engines"]] == [str(backend) for backend in BACKENDS]
    for engine in found["engines"]:
        if engine["works"]:
            assert engine["milliseconds"]["fast tiny"] > 0
            assert engine["version"]
        else:
            assert engine["detail"], "what is missing and how to get it"
    assert {device["name"].split()[0] for device in found["devices"]} == {"camera", "virtual"}
    assert found["paints"] == paints_here()


def test_int8_versions_are_timed_on_processors(
    monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact, tmp_path: Path
) -> None:
    """A copy of the style that calls itself int8: what is asked is whether it is found, run and listed."""
    path = tmp_path / "small.fast.onnx"
    path.write_bytes(small_artifact.path.read_bytes())
    quantized = replace(small_artifact.metadata, precision="int8")
    save_artifact(parse_model(small_artifact), quantized, quantized_path(path))
    monkeypatch.setattr("impasto.assets.installed_styles", lambda: {"small": {"fast": path}})
    assert cli_doctor.styles_to_try() == {"fast": path, "fast int8": quantized_path(path)}
    done = runner.invoke(cli_doctor.app, ["--json"])
    for engine, backend in zip(json.loads(done.stdout)["engines"], BACKENDS, strict=True):
        on_processor = engine["works"] and backend.hardware == "cpu"
        assert ("fast int8 tiny" in engine["milliseconds"]) == on_processor
        assert ("int8" in engine["detail"].split(", ")) == on_processor
    if paints_here():
        assert "fast int8" in runner.invoke(cli_doctor.app, []).output


@pytest.mark.parametrize(("system", "works"), [("linux", False), ("win32", True)])
def test_a_camera_that_may_not_be_opened_does_not_work(
    monkeypatch: pytest.MonkeyPatch, system: str, works: bool
) -> None:
    camera = CameraInfo(0, "Webcam", "/dev/video0", note="permission denied")
    monkeypatch.setattr("impasto.realtime.camera.list_cameras", lambda: [camera])
    monkeypatch.setattr(doctor.sys, "platform", system)
    (check,) = doctor.check_cameras()
    assert (check.works, check.detail) == (works, "Webcam (/dev/video0): permission denied")


def test_words_keep_brackets_and_need_no_wide_terminal(one_style: None) -> None:
    done = runner.invoke(cli_doctor.app, [])
    if "tensorrt on tensorrt: TensorRT" in done.output:
        assert "pip install 'impasto[tensorrt]'" in done.output


def test_no_engine_is_exit_code_5(monkeypatch: pytest.MonkeyPatch, one_style: None) -> None:
    def nothing(*_: object) -> None:
        raise EngineError("must be installed: pip install it")

    monkeypatch.setattr("impasto.realtime.engine.Backend.version", nothing)
    done = runner.invoke(cli_doctor.app, [])
    assert done.exit_code == 5
    assert "no engine paints on this machine" in done.output


def test_no_style_and_a_damaged_style(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli_doctor, "styles_to_try", dict)
    done = runner.invoke(cli_doctor.app, [])
    assert done.exit_code == 5
    assert "no style is installed" in done.output
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    monkeypatch.setattr(cli_doctor, "styles_to_try", lambda: {"fast": tmp_path / "bad.onnx"})
    assert "closing sum is missing" in runner.invoke(cli_doctor.app, []).output


def test_bench_counts_operations_and_knows_the_peak(small_artifact: Artifact) -> None:
    lines: list[str] = []
    options = BenchOptions(sizes=((64, 96),), devices=("cpu",), in_flight=(1, 2), seconds=0.05)
    results = list(bench([small_artifact.path], options, on_progress=lines.append))
    if not results:
        pytest.skip("no engine on this machine's processor")
    for result in results:
        assert 0 < result.median_ms <= result.p95_ms
        per_pixel = 2 * (3 * 8 * 9 + 8 * 8 * 9 + 8 * 3 * 16) / 4
        assert result.tflops == pytest.approx(per_pixel * 64 * 96 * result.fps / 1e12, rel=0.05, abs=1e-4)
        assert result.peak_tflops is not None
        assert result.share_of_peak is not None
    assert {result.in_flight for result in results} == {1, 2}
    assert any("matrix products" in line for line in lines)


@pytest.mark.parametrize(("quantized", "off"), [(False, 0.01), (True, 0.1)])
def test_the_peaks_graph_multiplies_matrices(small_artifact: Artifact, quantized: bool, off: float) -> None:
    backend = next((one for one in BACKENDS if one.device == "cpu" and one.library == "onnxruntime"), None)
    assert backend is not None
    graph = bench_module.products_graph(64, 4, quantized=quantized)
    try:
        run = backend.open_runner(small_artifact, graph, EngineOptions(precision="fp32"))
    except EngineError as exc:
        pytest.skip(str(exc))
    rows = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    matrix = np.random.default_rng(1).normal(0, 64**-0.5, (64, 64)).astype(np.float32)
    (product,) = run.start({"frame": rows}).result().values()
    wanted = rows @ np.linalg.matrix_power(matrix, 4)
    assert np.abs(product - wanted).mean() < off * np.abs(wanted).mean()


def test_bench_paints_a_video_with_every_engine(
    small_artifact: Artifact, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    options = BenchOptions(sizes=((48, 64), (32, 48)), devices=("cpu",), threads=(0, 1))
    results = list(bench_module.bench_end_to_end([small_artifact.path], make_clip("bench.mp4"), options, tmp_path))
    if not results:
        pytest.skip("no engine on this machine's processor")
    assert {(one.height, one.width, one.threads) for one in results} == {
        (48, 64, 0), (48, 64, 1), (32, 48, 0), (32, 48, 1)
    }  # fmt: skip
    for result in results:
        assert result.frames == 12
        assert result.fps > 0
        assert min(result.decode_ms, result.stylize_ms, result.encode_ms) > 0


def test_bench_command(
    one_style: None, small_artifact: Artifact, tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "bench.png"
    words = [str(small_artifact.path), "--size", "tiny", "--size", "64x32", "--device", "cpu", "--seconds", "0.05"]
    words += ["--clip", str(make_clip("bench.mp4"))]
    done = runner.invoke(cli_bench.app, [*words, "--json", "--plot", str(plot)])
    if not paints_here():
        pytest.skip("no engine on this machine's processor")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    for rows in (found["engines"], found["end_to_end"]):
        assert {(row["height"], row["width"]) for row in rows} == {(64, 96), (32, 64)}
    assert plot.read_bytes().startswith(b"\x89PNG")
    again = runner.invoke(cli_bench.app, [*words, "--plot", str(plot)])
    assert again.exit_code == 6
    assert list(tmp_path.iterdir()) == [plot]
    table = runner.invoke(cli_bench.app, words)
    assert "median ms" in table.output
    assert "file to file" in table.output
    assert "file to file" not in runner.invoke(cli_bench.app, [*words, "--engine-only"]).output


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nobody"], 3, "nobody"),
        (["--size", "huge"], 2, "--size must be WIDTHxHEIGHT, tiny, 360p or 720p, got 'huge'"),
        (["--size", "0x5"], 2, "--size must be"),
        (["--precision", "fp8"], 2, "precision must be"),
        (["/nowhere/style.onnx"], 3, "/nowhere/style.onnx"),
        (["--device", "gpu"], 2, "device must be one of cpu,"),
        (["--device", "cuda:1"], 2, "device must be one of cpu,"),
        (["--in-flight", "0"], 2, "in_flight must be 1 or more, got 0"),
        (["--threads", "-1"], 2, "threads must be 0 to 1024, got -1"),
        (["--seconds", "inf"], 2, "seconds must be 0 to 3600, got inf"),
        (["--seconds", "nan"], 2, "seconds must be 0 to 3600, got nan"),
        (["--clip", "nosuch.mp4"], 4, "nosuch.mp4"),
    ],
)
def test_bench_mistakes(
    one_style: None, words: list[str], code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "_measurements", lambda *_: pytest.fail("measured"))
    done = runner.invoke(cli_bench.app, words)
    assert done.exit_code == code, done.output
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_bench_says_what_cannot_be_measured(one_style: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def precisions(backend: Backend, index: int = 0) -> tuple[Precision, ...]:
        if backend.device != "cpu":
            raise EngineError("a card must be there")
        return ("fp32",)

    def measurements(artifact: Artifact, backend: Backend, *_: object) -> Iterator[Measurement]:
        yield Measurement("blobs", "fast", str(backend), "fp32", 32, 64, 1, 1, 1.0, 1.0, 1000.0, 0.1, None)

    def no_video(*_: object) -> None:
        raise SinkError("there must be space for it")

    monkeypatch.setattr(Backend, "precisions", precisions)
    monkeypatch.setattr(bench_module, "matrix_peak_tflops", lambda *_: None)
    monkeypatch.setattr(bench_module, "_measurements", measurements)
    monkeypatch.setattr(bench_module, "_end_to_end", no_video)
    nothing = runner.invoke(cli_bench.app, ["--device", "cuda"])
    assert nothing.exit_code == 5
    assert nothing.stderr == "error: nothing can be measured: onnxruntime on cuda: a card must be there\n"
    assert not nothing.stdout
    nothing = runner.invoke(cli_bench.app, ["--device", "cpu", "--precision", "bf16"])
    assert nothing.exit_code == 5
    assert "no other engine has bf16" in nothing.stderr
    some = runner.invoke(cli_bench.app, ["--device", "cuda", "--device", "cpu"])
    assert some.exit_code == 0, some.output
    assert "openvino on cpu" in some.stdout
    assert "warning: not measured: onnxruntime on cuda: a card must be there" in some.stderr
    assert "file to file: there must be space for it" in some.stderr
    every = runner.invoke(cli_bench.app, ["--device", "auto", "--engine-only"])
    assert every.exit_code == 0
    assert "not measured" not in every.stderr


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(SinkError, match="cannot write"):
        cli_bench._plot([], [], tmp_path / "none" / "x.png", "machine")
