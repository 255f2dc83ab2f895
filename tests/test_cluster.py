"""Segments as tasks of a local Ray cluster, a worker killed midway: the same film as from one machine.

That test starts real Ray nodes, which takes half a minute: set IMPASTO_SLOW=1 to run it.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime import cluster as cluster_module
from impasto.realtime.cluster import stylize_on_cluster
from impasto.realtime.codecs import Encoding
from impasto.realtime.options import VideoOptions
from impasto.realtime.segments import Job, Segment
from impasto.realtime.verify import verify
from impasto.realtime.video import stylize_video

from .conftest import web_server

MakeClip = Callable[..., Path]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that works on nothing and two workers of one CPU."""
    if not os.environ.get("IMPASTO_SLOW"):
        pytest.skip("starts Ray nodes: set IMPASTO_SLOW=1")
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_worker_killed_midway_changes_nothing(
    cluster: Any, make_clip: MakeClip, small_artifact: Artifact, tmp_path: Path
) -> None:
    clip = make_clip(height=240, width=320, times=[512 * n for n in range(240)], sound=True)
    options = VideoOptions(style=str(small_artifact.path), library="onnxruntime", precision="fp32", segment_frames=20)
    stylize_video(clip, tmp_path / "one.mp4", options=options)
    killed = threading.Event()

    def kill(frames: int, seconds: float) -> None:
        if frames >= 40 and not killed.is_set():
            killed.set()
            cluster.remove_node(cluster.workers[0], allow_graceful=False)

    report = stylize_on_cluster(clip, tmp_path / "many.mp4", options, address=cluster.address, on_progress=kill)
    assert killed.is_set()
    assert report.frames_out == 240
    assert verify(clip, tmp_path / "many.mp4") == []
    assert (tmp_path / "many.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["many.mp4", "one.mp4"]


def test_a_film_at_an_address_is_painted_as_here(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(sound=True)
    options = VideoOptions(style=str(identity_artifact.path), device="cpu", precision="fp32", segment_frames=4)
    here = SimpleNamespace(  # tasks that run when they are waited for
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1}}],
        remote=lambda **options: lambda task: SimpleNamespace(remote=lambda *words: partial(task, *words)),
        put=lambda plan: plan,
        wait=lambda running, num_returns: (running[:1], []),
        get=lambda task: task(),
    )
    monkeypatch.setattr(cluster_module, "_connected", lambda address: nullcontext(here))
    with web_server(clip.parent) as address:
        stylize_on_cluster(f"{address}/{clip.name}", tmp_path / "many.mp4", options, address="here")
    assert verify(clip, tmp_path / "many.mp4") == []
    stylize_video(clip, tmp_path / "one.mp4", options=options)
    assert (tmp_path / "many.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()
    cluster_module._engines.cache_clear()


def test_few_results_wait_for_a_segment_that_is_late(tmp_path: Path) -> None:
    """Their files lie in memory; the first of those handed out is always the last to come back."""
    options = VideoOptions(style="any", segment_frames=1)
    tick = Fraction(1, 25)
    plan = cluster_module._Plan("in.mp4", options, {}, tick, Encoding(), [n * tick for n in range(20)])
    job = Job(tmp_path, {}, tick, tmp_path / "out.mp4")
    handed_out: list[int] = []

    def begin(shared: object, number: int, cpus: int) -> int:
        handed_out.append(number)
        return number

    def result(number: int) -> cluster_module.PaintedSegment:
        times = np.array([[number, 1]], np.int64)
        return cluster_module.PaintedSegment(b"film", Segment(f"{number:05d}.mkv", times, 0), "one")

    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2 * cluster_module.CPUS_PER_TASK}}],
        remote=lambda **options: lambda task: SimpleNamespace(remote=begin),
        put=lambda plan: plan,
        wait=lambda running, num_returns: ([max(running)], []),
        get=result,
    )
    for _ in cluster_module._paint_segments(ray, plan, job, engine="one"):
        assert len(handed_out) - len(job.segments) < 2 * cluster_module.TASKS_PER_SLOT
    assert handed_out == list(range(20))
    assert [segment.name for segment in job.segments] == [f"{number:05d}.mkv" for number in range(20)]


def test_a_worker_keeps_the_styles_of_one_film(
    identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    style = str(identity_artifact.path)
    for strength in (0.5, 1.0):
        options = VideoOptions(style=style, strength=strength)
        cluster_module._engines(cluster_module._Key(options, ((style, identity_artifact.read()),)))
        assert len(list(tmp_path.glob("impasto-styles-*"))) == 1
    cluster_module._engines.cache_clear()
    assert not list(tmp_path.iterdir())
