"""What this machine can do: every engine tried with a real frame, cameras, virtual cameras, and what is missing."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np

from ..export.artifact import Artifact, load_artifact
from . import nvidia
from .engine import BACKENDS, Backend, Engine, EngineOptions
from .engine_onnxruntime import installed_distributions
from .errors import ImpastoError

Size = tuple[int, int]
"""Height, width."""

SIZES: Mapping[str, Size] = {"360p": (360, 640), "720p": (720, 1280)}
ROUNDS = 3


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    works: bool
    version: str = ""
    """Of the library, where it is installed."""
    detail: str = ""
    """What it is, or what is missing and how to get it."""
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Median of a real inference, by style version and size, e.g. "fast 720p", "fast int8 720p"."""


@dataclass(frozen=True)
class Diagnosis:
    """All that was found."""

    system: str
    engines: tuple[Check, ...]
    devices: tuple[Check, ...]
    """Cameras and virtual cameras."""
    notes: tuple[str, ...] = ()

    @property
    def paints(self) -> bool:
        """Whether at least one engine painted a frame."""
        return any(engine.works for engine in self.engines)


def diagnose(styles: Mapping[str, Path], *, on_progress: Callable[[str], None] = lambda line: None) -> Diagnosis:
    """Try everything.

    Args:
        styles: artifacts to paint with by what they are: one per tier, and its int8 version.
        on_progress: gets the name of what is tried next.
    """
    artifacts: dict[str, Artifact] = {}
    notes = []
    for version, path in styles.items():
        try:
            artifacts[version] = load_artifact(path)
        except ImpastoError as exc:
            notes.append(str(exc))
    if not artifacts:
        notes.append("no style is installed, so no engine can be tried: impasto styles add FILE.onnx")
    engines = []
    for backend in BACKENDS:
        on_progress(str(backend))
        engines.append(check_engine(backend, artifacts))
    return Diagnosis(
        system=describe_machine(),
        engines=tuple(engines),
        devices=(*check_cameras(), check_virtual_camera()),
        notes=(*notes, *_package_notes()),
    )


def check_engine(backend: Backend, artifacts: Mapping[str, Artifact]) -> Check:
    """Version, precisions and speed of a back end, or why it does not work."""
    try:
        version = backend.version()
    except ImpastoError as exc:
        return Check(str(backend), works=False, detail=str(exc))
    try:
        able: list[str] = [*backend.precisions()]
        times: dict[str, float] = {}
        for name, artifact in artifacts.items():
            if artifact.metadata.precision == "int8":
                if backend.hardware != "cpu":
                    continue  # int8 versions are made for processors, and tried on them alone
                able.append("int8")
            times |= {f"{name} {size}": taken for size, taken in _inference_times(backend, artifact).items()}
    except ImpastoError as exc:
        return Check(str(backend), works=False, version=version, detail=str(exc))
    detail = ", ".join(dict.fromkeys(able))
    return Check(str(backend), works=bool(times), version=version, detail=detail, milliseconds=times)


def check_cameras() -> Sequence[Check]:
    """Every camera with its best mode."""
    from .camera import list_cameras

    try:
        cameras = list_cameras()
    except ImpastoError as exc:
        return [Check("camera", works=False, detail=str(exc))]
    if not cameras:
        return [Check("camera", works=False, detail="none found: connect one, or check its permissions")]
    return [
        Check(
            f"camera {camera.index}",
            works=not camera.note or sys.platform != "linux",  # elsewhere a note does not mean that it failed
            detail=f"{camera.name} ({camera.path})"
            + (f", {len(camera.modes)} modes" if camera.modes else "")
            + (f": {camera.note}" if camera.note else ""),
        )
        for camera in cameras
    ]


def check_virtual_camera() -> Check:
    """Whether other programs can be given a camera."""
    from .frame import StreamInfo
    from .sink_virtualcam import VirtualCamera

    try:
        version = package_version("pyvirtualcam")
    except PackageNotFoundError:
        return Check("virtual camera", works=False, detail="pip install 'impasto[camera]'")
    try:
        with VirtualCamera(StreamInfo(640, 480, Fraction(30))) as camera:
            return Check("virtual camera", works=True, version=version, detail=camera.device)
    except ImpastoError as exc:
        return Check("virtual camera", works=False, version=version, detail=" ".join(str(exc).split()))


def describe_machine() -> str:
    """Operating system, Python, processor and NVIDIA's driver."""
    parts = [f"{platform.system()} {platform.release()}", f"Python {platform.python_version()}", processor_name()]
    driver = nvidia.driver()
    if driver is not None:
        cards = ", ".join(card.name for card in driver.cards) or "no card"
        parts.append(f"NVIDIA driver for CUDA {'.'.join(map(str, driver.cuda_version))}: {cards}")
    return "; ".join(parts)


def processor_name() -> str:
    """What the processor calls itself, with the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def _inference_times(backend: Backend, artifact: Artifact) -> dict[str, float]:
    engine = backend.open(artifact, EngineOptions(build="never"))
    try:
        return {name: _median_ms(engine, size) for name, size in SIZES.items()}
    finally:
        engine.close()


def _median_ms(engine: Engine, size: Size) -> float:
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    engine.warmup(*size)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        engine(frame)
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 1)


def _package_notes() -> list[str]:
    installed = installed_distributions()
    if len(installed) < 2:
        return []
    return [
        f"{' and '.join(installed)} overwrite one another: pip uninstall -y {' '.join(installed)}, then install one"
    ]
