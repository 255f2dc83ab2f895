"""`stylize-webcam` as a user meets it: errors, exit codes, a whole run, Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import typer.main
from typer.testing import CliRunner, Result

from impasto.export.artifact import Artifact
from impasto.realtime.cli_webcam import app as webcam
from impasto.realtime.live_options import DEFAULT_PORT, parse_budget, parse_size
from impasto.realtime.live_settings import LiveSettings

from .live_helpers import readable_frames, wait_until

COMMAND = [sys.executable, "-c", "from impasto.realtime.cli import stylize_webcam; stylize_webcam()"]
SOURCE = "lavfi:testsrc2=size=160x96:rate=30"


@pytest.fixture
def environment(tmp_path: Path, make_artifact, small_model) -> dict[str, str]:
    styles = tmp_path / "styles"
    styles.mkdir()
    make_artifact(small_model, name="small", stride=2).path.rename(styles / "small.fast.onnx")
    return os.environ | {"IMPASTO_STYLES": str(styles), "IMPASTO_CONFIG": str(tmp_path / "config"), "DISPLAY": ""}


MakeClip = Callable[..., Path]
Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """A process that is ended, and its pipes closed, with the test."""
    with ExitStack() as stack:

        def begin(command: list[str], **options: object) -> subprocess.Popen:
            process = stack.enter_context(subprocess.Popen(command, **options))
            stack.callback(process.kill)
            return process

        yield begin


Run = Callable[..., Result]


@pytest.fixture
def run(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: run("test", "--style", "small")."""
    for name in ("IMPASTO_STYLES", "IMPASTO_CONFIG", "DISPLAY"):
        monkeypatch.setenv(name, environment[name])
    # What is for a process of its own: arenas of memory, and an end in spite of a thread that still loads.
    monkeypatch.setattr("impasto.realtime.live_run.keep_heap_together", lambda: False)
    monkeypatch.setattr("impasto.realtime.cli_webcam.threading", SimpleNamespace(enumerate=list))
    return lambda *arguments: CliRunner().invoke(webcam, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--latency-budget", "0ms"], 2, "latency budget must be like 80ms"),
        (["--size", "00x10"], 2, "--size must be WIDTHxHEIGHT or 720p, got '00x10'"),
        (["test", "--strength", "3"], 2, "strength must be between 0 and 1"),
        (["test", "--style", "nope"], 3, "style must be one of"),
        (["test", "--style", "small", "--tier", "quality"], 3, "tier of small must be one of fast"),
        (["test", "--style", "ARTIFACT", "--tier", "quality"], 3, "tier of identity must be one of fast"),
        (["test", "--style", "/no/such.onnx"], 3, "must be an artifact"),
        (["77"], 4, "camera must be one of this machine's"),
        (["/dev/video63"], 4, "is not there"),
        (["rtsp://127.0.0.1:9/x"], 4, "cannot be reached; does its server run? (connection refused)"),
        ([SOURCE, "--device", "cuda"], 5, "NVIDIA"),
        ([SOURCE, "--record", "/no/such/folder/a.mp4"], 6, "/no/such/folder must be a folder"),
        ([SOURCE, "--record", "a.avi"], 6, "error: recording must end in"),
        ([SOURCE, "--push", "foo.example/live/key"], 6, "error: push address must begin with one of rtmp://"),
        ([SOURCE, "--window"], 6, "needs a display"),
        ([SOURCE, "--virtual-camera-device", "/dev/video63"], 6, "error: virtual camera cannot be opened"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(
    run: Run, identity_artifact: Artifact, arguments: list[str], code: int, words: str
) -> None:
    arguments = [str(identity_artifact.path) if a == "ARTIFACT" else a for a in arguments]
    style = [] if "--style" in arguments else ["--style", "small"]
    done = run("--no-panel", "--seconds", "60", *style, *arguments)
    assert done.exit_code == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert "trying again" not in last
    assert "Traceback" not in done.stderr


# A card on a busy machine would come between the pictures, and one captured before it is left out of a recording.
NO_CARDS = """
import impasto.realtime.live as live
live.HOLD_SECONDS = float("inf")
from impasto.realtime.cli import stylize_webcam
stylize_webcam()
"""


def test_a_whole_run(start: Start, run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    process = start(
        [sys.executable, "-c", NO_CARDS, SOURCE, "--style", "small", "--record", str(target),
         "--microphone", "lavfi:sine=duration=0.5", "--port", "0", "--json", "--seconds", "120"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("recording: the microphone has ended; recording goes on without sound"):
            process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, said
    assert any("panel:        http://127.0.0.1:" in line for line in said)
    assert any("the microphone has ended" in line for line in said)
    report = json.loads(process.stdout.read())
    assert report["painted"] > 0
    assert report["capture_to_painted"]["p95_ms"] > 0
    assert report["outputs"]["recording"]["count"] > 0
    with av.open(str(target)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) >= report["outputs"]["recording"]["count"]
    again = run(SOURCE, "--style", "small", "--record", str(target), "--no-panel")
    assert (again.exit_code, "exists" in again.stderr) == (6, True)


def test_a_recording_is_not_the_source_itself(run: Run, make_clip: MakeClip) -> None:
    clip = make_clip()
    before = clip.read_bytes()
    linked = clip.with_name("linked.mp4")
    linked.hardlink_to(clip)
    for target in (clip, linked):
        done = run(str(clip), "--style", "small", "--record", str(target), "--overwrite", "--no-panel")
        assert (done.exit_code, "must not be the source itself" in done.stderr) == (6, True), done.stderr
    assert clip.read_bytes() == before


def test_a_preset_gives_way_to_a_named_style(run: Run, tmp_path: Path) -> None:
    """Its own style has a quality tier, the named one has not."""
    presets = tmp_path / "config" / "presets"
    presets.mkdir(parents=True)
    (presets / "night.toml").write_text('style = "other"\ntier = "quality"\nmirror = true\n')
    words = [SOURCE, "--preset", "night", "--style", "small", "--seconds", "0.3", "--no-panel", "--json"]
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["painted"] > 0
    done = run(*words, "--tier", "quality")
    assert (done.exit_code, "tier of small must be one of fast" in done.stderr) == (3, True), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT for another process")
def test_ctrl_c_ends_it_while_a_camera_hangs(start: Start, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        process = start(
            [*COMMAND, f"http://127.0.0.1:{silent.getsockname()[1]}/x", "--style", "small", "--no-panel"],
            env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert any("opening http" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "error" not in process.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT for another process")
def test_obs_may_open_its_page_while_a_camera_is_waited_for(start: Start, environment: dict[str, str]) -> None:
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        source = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
    process = start(
        [*COMMAND, source, "--wait", "--style", "small", "--port", "0"],
        env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    address = next(line.split()[-1] for line in process.stderr if line.startswith("OBS browser:"))
    with urllib.request.urlopen(address, timeout=60) as page:
        assert "<script" in page.read().decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


# A thread that does not end by itself is left behind after seconds: here it would hang.
PATIENT = """
import impasto.realtime.live as live
from impasto.realtime.live_output import LiveOutput
live.JOIN_SECONDS = 600
LiveOutput.close.__kwdefaults__["timeout_seconds"] = 600
from impasto.realtime.cli import stylize_webcam
stylize_webcam()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_one_signal_ends_it(start: Start, environment: dict[str, str], tmp_path: Path, number: int, code: int) -> None:
    target = tmp_path / "out.mp4"
    process = start(
        [sys.executable, "-c", PATIENT, SOURCE, "--style", "small", "--record", str(target), "--port", "0"],
        env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert any("recording: running" in line for line in process.stderr)
    wait_until(lambda: target.stat().st_size > 4_000)  # pictures
    process.send_signal(number)
    assert process.wait(60) == code
    assert "Traceback" not in process.stderr.read()
    with av.open(str(target)) as container:
        assert len(list(container.decode(video=0))) > 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_keys_in_the_terminal(start: Start, environment: dict[str, str]) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = start(
        [*COMMAND, SOURCE, "--style", "small", "--port", "0", "--no-open"],
        env=environment, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = []
    late = threading.Timer(300, process.kill)
    late.start()
    for line in process.stderr:
        said.append(line)
        if "painting small" in line:
            os.write(ours, b"m")
        if "mirror True" in line:
            os.write(ours, b"---h")
        if "strength 0.7" in line:
            os.write(ours, b"q")
    assert process.wait(60) == 0
    late.cancel()
    os.close(ours)
    os.close(theirs)
    assert "mirror True" in "".join(said)


def test_standard_output_is_nothing_but_pictures(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*COMMAND, SOURCE, "--style", "small", "--stdout", "--no-panel", "--seconds", "0.5", "--json", "--quiet"],
        env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import io

    with av.open(io.BytesIO(done.stdout)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) > 0
    assert (frames[0].width, frames[0].height) == (160, 96)
    assert json.loads(done.stderr)["painted"] > 0
    assert b"capture_to_painted" not in done.stdout


def test_cameras_are_listed(run: Run) -> None:
    done = run("--list-cameras")
    assert done.exit_code == 0
    assert done.stdout


def test_help_says_the_settings_defaults() -> None:
    """A setting that is not given comes from the preset, so the options themselves have none."""
    said = {parameter.name: parameter.help for parameter in typer.main.get_command(webcam).params}
    settings = LiveSettings("mosaic")
    for name, value in {
        "strength": settings.strength, "smooth": settings.smoothing, "crossfade": settings.crossfade_seconds,
        "keep_colors": settings.keep_colors, "mirror": settings.mirror, "port": DEFAULT_PORT,
    }.items():  # fmt: skip
        assert f"; default: {'off' if value is False else f'{value:g}'}" in said[name]


def test_sizes_and_budgets() -> None:
    assert parse_size("720p") == (720, 1280)
    assert parse_size("640x360") == (360, 640)
    for text in ("1x10", "00p", "640x15", "99999x720"):
        with pytest.raises(ValueError, match="size must give sides of 16 to 16384 pixels"):
            parse_size(text)
    assert (parse_budget("80ms"), parse_budget("0.1s"), parse_budget("50"), parse_budget("off")) == (80, 100, 50, None)


NEVER_LOADS = """
import time
import impasto.realtime.live as live
import impasto.realtime.live_engine as live_engine
live.JOIN_SECONDS = live_engine.CLOSE_SECONDS = 0.5
live_engine.load_engine = lambda *arguments, **more: time.sleep(600)
from impasto.realtime.cli import stylize_webcam
stylize_webcam()
"""


def test_a_style_that_never_loads_does_not_keep_the_program(start: Start, environment: dict[str, str]) -> None:
    process = start(
        [sys.executable, "-c", NEVER_LOADS, SOURCE, "--style", "small", "--port", "0"],
        env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert any("painting small" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()


# Python ignores the signal that comes with the limit: a write fails, as on a full disk.
NO_LARGE_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
from impasto.realtime.cli import stylize_webcam
stylize_webcam()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_ends_the_recording_and_nothing_else(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "out.mp4"
    process = start(
        [sys.executable, "-c", NO_LARGE_FILES, "lavfi:testsrc2=size=320x240:rate=30,noise=alls=60:allf=t",
         "--style", "small", "--record", str(target), "--stdout", "--no-panel", "--device", "cpu"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    pictures = bytearray()

    def read() -> None:
        while chunk := process.stdout.read1(1 << 16):
            pictures.extend(chunk)

    reading = threading.Thread(target=read)
    reading.start()
    late = threading.Timer(300, process.kill)
    late.start()
    stopped = next((line for line in process.stderr if b"recording to" in line and b"stopped" in line), b"")
    assert stopped, "nothing was said about the recording"
    enough = len(pictures) + 10 * 320 * 240 * 3  # raw pictures: the other output goes on
    wait_until(lambda: len(pictures) > enough)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 0, rest
    late.cancel()
    reading.join()
    assert b"what is there plays" in stopped, rest
    assert b"Traceback" not in rest
    assert target.stat().st_size <= 2_000_000
    assert readable_frames(target) > 15
