"""Segments as tasks of a local Ray cluster, a worker killed midway: the same film as from one machine.

Starts real Ray nodes, which takes half a minute: set IMPASTO_SLOW=1 to run it.
"""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.options import VideoOptions
from impasto.realtime.verify import verify
from impasto.realtime.video import stylize_video

MakeClip = Callable[..., Path]

if not os.environ.get("IMPASTO_SLOW"):
    pytest.skip("starts Ray nodes: set IMPASTO_SLOW=1", allow_module_level=True)
ray = pytest.importorskip("ray")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that works on nothing and two workers of one CPU."""
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
    from impasto.realtime.cluster import stylize_on_cluster

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
