"""What `impasto bench --peer` compares engines with: Johnson's network in plain PyTorch."""

import json
import logging
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from impasto.export.artifact import Artifact
from impasto.realtime import bench as bench_module
from impasto.realtime import cli_bench
from impasto.realtime.bench import BenchOptions, Measurement, bench, bench_peers, times_peer
from impasto.realtime.engine import Backend, Batch, Done, PendingPicture
from impasto.realtime.errors import EngineError

RESULT = Measurement(
    "blobs", "fast", "openvino on cpu", "fp32", height=32, width=64, threads=1, in_flight=1, median_ms=1.0,
    p95_ms=1.0, fps=1000.0, tflops=0.1, peak_tflops=None,
)  # fmt: skip


def test_an_engine_is_compared_at_its_own_size_threads_and_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch", reason="the peer is PyTorch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    results = [RESULT, replace(RESULT, height=512), replace(RESULT, in_flight=4, fps=3000.0)]
    card = replace(RESULT, engine="tensorrt on tensorrt")
    with caplog.at_level(logging.WARNING):
        peers = list(bench_peers([*results, card], seconds=0.01))
    assert [(peer.device, peer.height, peer.threads) for peer in peers] == [("cpu", 32, 1), ("cpu", 512, 1)]
    assert peers[0].median_ms < peers[1].median_ms  # a sixteenth of the picture
    ratios = [times_peer(result, peers) for result in results]
    assert ratios == [1000 / peers[0].fps, 1000 / peers[1].fps, 3000 / peers[0].fps]
    assert times_peer(card, peers) is None
    assert "PyTorch sees no card" in caplog.text
    assert times_peer(replace(RESULT, threads=2), peers) is None
    assert torch.get_num_threads() == before


def test_the_command_says_the_ratio(small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the peer is PyTorch")
    monkeypatch.setattr(bench_module, "matrix_peak_tflops", lambda *_: None)
    words = [str(small_artifact.path), "--size", "64x32", "--device", "cpu", "--seconds", "0.01", "--engine-only"]
    words += ["--in-flight", "1", "--threads", "1"]
    done = CliRunner().invoke(cli_bench.app, [*words, "--peer", "--json"])
    if "nothing can be measured" in done.stderr:
        pytest.skip("no engine on this machine's processor")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (peer,) = found["peers"]
    assert [row["times_peer"] for row in found["engines"]] == [row["fps"] / peer["fps"] for row in found["engines"]]
    table = CliRunner().invoke(cli_bench.app, [*words, "--peer"])
    assert "× PyTorch" in table.stdout
    assert "random weights" in table.stdout
    without = CliRunner().invoke(cli_bench.app, words)
    assert "PyTorch" not in without.stdout


def test_a_missing_pytorch_is_one_line_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    monkeypatch.setattr(cli_bench, "_measure", lambda *_, **__: pytest.fail("measured"))
    done = CliRunner().invoke(cli_bench.app, ["--peer"])
    assert done.exit_code == 5
    assert "pip install 'impasto[train]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_engine_that_cannot_do_a_size_is_passed_over_and_closed(
    small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Small:
        """Has no memory for large frames."""

        in_flight = 1

        def warmup(self, height: int, width: int) -> None:
            if height > 64:
                raise EngineError("no memory")

        def __call__(self, frames: Batch) -> Batch:
            return frames

        def submit(self, frames: Batch) -> PendingPicture:
            return PendingPicture(Done({"stylized": frames}))

        def close(self) -> None:
            closed.append(True)

    backend = Backend("onnxruntime", "cpu", "nowhere", "cpu")
    monkeypatch.setattr(bench_module, "BACKENDS", (backend, backend))
    monkeypatch.setattr(bench_module, "matrix_peak_tflops", lambda *_: None)
    monkeypatch.setattr(Backend, "precisions", lambda self: ("fp32",))
    monkeypatch.setattr(Backend, "open", lambda self, artifact, options: Small())
    skipped: list[str] = []
    options = BenchOptions(sizes=((128, 128), (64, 64)), seconds=0.0)
    found = list(bench([small_artifact.path], options, on_skipped=skipped.append))
    assert [one.height for one in found] == [64, 64]
    assert skipped == ["onnxruntime on cpu in fp32, 128x128: no memory"] * 2
    assert len(closed) == 2
