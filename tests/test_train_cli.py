"""`impasto train` as users run it."""

import csv
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="training needs torch")

from impasto.realtime.cli_train import adain_app, app  # noqa: E402
from impasto.training import train as train_module  # noqa: E402
from impasto.training.adain_config import AdainTrainConfig  # noqa: E402
from impasto.training.checkpoint import load_checkpoint  # noqa: E402
from impasto.training.errors import TrainingError  # noqa: E402
from impasto.training.report import RunReport  # noqa: E402
from impasto.training.train_config import TrainConfig  # noqa: E402

from .train_helpers import MakeConfig  # noqa: E402


def test_help_says_the_configurations_defaults() -> None:
    """Help imports no torch, so it has them in its own words."""
    here = Path()
    of_kind = {kind: AdainTrainConfig.of(kind, here, here, here, style_weight=1.0) for kind in ("compact", "reference")}
    _assert_defaults_said(app, TrainConfig(here, here, here, "a"))
    _assert_defaults_said(adain_app, of_kind["compact"], of_kind["reference"])


def _assert_defaults_said(app: typer.Typer, config: object, reference: object = None) -> None:
    own = {"name", "output", "style_weight", "loss_weights", "keyframes", "videos", "warm_start"}  # as their help says
    checked = 0
    for parameter in typer.main.get_command(app).params:
        name = str(parameter.name)
        if not hasattr(config, name) or parameter.required or parameter.default is not None or name in own:
            continue
        default = getattr(config, name)
        said = f"; default {_plain(default)}"
        if reference is not None and getattr(reference, name) != default and "compact:" not in parameter.help:
            said += f", reference {_plain(getattr(reference, name))}"
        assert parameter.help.endswith(f"{said}."), name
        checked += 1
    assert checked > 10


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value))
    return value if isinstance(value, str) else f"{value:g}"


def test_the_command_trains_and_reports(make_config: MakeConfig) -> None:
    config = make_config()
    done = CliRunner().invoke(app, _arguments(config, "--steps", "12", "--sample-every", "6"))
    assert done.exit_code == 0, done.output
    said = done.stderr.splitlines()
    assert said[-1].startswith("step 12/12")
    assert all(line.startswith("step ") and line.endswith(" s left") for line in said), said  # one line a report
    rows = list(csv.DictReader((config.output / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["10", "12"]
    assert cv2.imread(str(config.output / "report.png")) is not None


def test_the_command_stops_cleanly_on_ctrl_c(make_config: MakeConfig) -> None:
    config = make_config()
    program = [sys.executable, "-c", "from impasto.realtime.cli import main; main()", "train"]
    process = subprocess.Popen(
        [*program, *_arguments(config, "--steps", "100000", "--checkpoint-every", "10")],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not (config.output / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # What SIGKILL would leave: the rows up to the checkpoint.
    rows = list(csv.DictReader((config.output / "log.csv").read_text().splitlines()))
    assert rows[0]["step"] == "10"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    assert load_checkpoint(config.output / "checkpoint.safetensors").metadata["step"] >= 10


def test_ctrl_c_before_the_first_step_promises_nothing(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = train_module._Targets.load

    def interrupted(config: TrainConfig, device: torch.device) -> object:
        signal.getsignal(signal.SIGINT)(
            signal.SIGINT, None
        )  # a real one ends pytest once OpenVINO ran: faulthandler's stack is too small
        return load(config, device)

    monkeypatch.setattr(train_module._Targets, "load", interrupted)
    done = CliRunner().invoke(app, _arguments(make_config(), "--steps", "4"))
    assert done.exit_code == 130, (done.output, done.exception)
    assert "stopped before the first step" in done.stderr
    assert "--resume" not in done.stderr


def test_damaged_photographs_do_not_end_the_command(make_config: MakeConfig) -> None:
    """Nor do they get into the report, which begins with the first ones of the folder."""
    config = make_config()
    for name in "01234":
        path = config.photos / f"{name}.png"
        path.write_bytes(path.read_bytes()[:60])
    (config.photos / "notes.txt").write_text("no picture")
    (config.photos / ".hidden").write_text("no picture either")
    done = CliRunner().invoke(app, _arguments(config, "--steps", "4", "--name", "The Wave"))
    assert done.exit_code == 0, (done.output, done.exception)
    assert "done; skipped files: 5 could not be read, 1 not a picture; next: impasto export" in done.stdout
    assert shlex.split(done.stdout)[-2:] == ["-o", "The Wave.fast.onnx"]
    assert cv2.imread(str(config.output / "report.png")) is not None

    (config.photos / "5.png").write_bytes(b"")
    none = CliRunner().invoke(app, _arguments(make_config("none"), "--steps", "4"))
    assert isinstance(none.exception, TrainingError)
    assert "none of the 6 pictures" in str(none.exception)


def test_tensorboard_gets_losses_and_pictures(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    scalars: list[tuple[str, int]] = []
    images: list[tuple[str, tuple[int, ...], int]] = []

    class Writer:
        def __init__(self, folder: Path) -> None:
            folders.append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, step))

        def add_image(self, name: str, picture: np.ndarray, step: int, *, dataformats: str) -> None:
            images.append((name, picture.shape, step))

        def flush(self) -> None:
            scalars.append(("flush", 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    RunReport(Path("other"), style_image=Path("x"), photographs=[], tensorboard=True)  # of a process that reports none
    assert folders == []
    done = CliRunner().invoke(app, _arguments(make_config(), "--steps", "12", "--tensorboard", "--quiet"))
    assert done.exit_code == 0, (done.output, done.exception)
    assert [step for name, step in scalars if name == "loss/total"] == [10, 12]
    assert scalars[-1] == ("flush", 0)
    assert images == [(f"sample/{i}", (320, 384, 3), 12) for i in range(4)]
    assert len(folders) == 1

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    missing = CliRunner().invoke(app, _arguments(make_config("missing"), "--tensorboard"))
    assert "pip install tensorboard" in str(missing.exception)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.jpg", "--photos", "PHOTOS"], 3, "missing.jpg"),
        (["STYLE", "--photos", "nowhere"], 3, "nowhere"),
        (["STYLE", "--photos", "PHOTOS", "--loss-weights", "none.pth"], 3, "none.pth"),
        (["STYLE", "--photos", "PHOTOS", "--style-weight", "much"], 2, "--style-weight"),
        (["STYLE", "--photos", "PHOTOS", "--steps", "0"], 2, "steps"),
        (["STYLE", "--photos", "PHOTOS", "--video-weight", "9"], 2, "--video-weight must come with --videos"),
        (["STYLE", "--photos", "PHOTOS", "--keyframe-weight", "9"], 2, "--keyframe-weight must come with --keyframes"),
    ],
)
def test_wrong_input_is_one_line_and_an_exit_code(
    make_config: MakeConfig,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    config = make_config()
    names = {"STYLE": str(config.style_image), "PHOTOS": str(config.photos)}
    command = [sys.executable, "-c", "from impasto.realtime.cli import main; main()", "train"]
    extra = [] if "--loss-weights" in arguments else ["--loss-weights", str(config.loss_weights)]
    done = subprocess.run(
        [*command, *(names.get(a, a) for a in arguments), *extra, "-o", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _arguments(config: TrainConfig, *more: str) -> list[str]:
    """Of `impasto train`."""
    return [
        str(config.style_image), "--photos", str(config.photos), "-o", str(config.output),
        "--loss-weights", str(config.loss_weights), "--batch-size", "2", "--crop-size", "64", "--style-size", "64",
        "--precision", "fp32", *more,
    ]  # fmt: skip


def test_a_style_that_is_installed_can_be_begun_with(make_config: MakeConfig, tmp_path: Path) -> None:
    """By its name, of the tier that is trained; as a file; and from the folder of a run."""
    from impasto.assets import find_style

    def begun_with(run: str, style: object, *more: str) -> dict[str, Any]:
        config = make_config(run)
        arguments = _arguments(config, "--steps", "1", "--warm-start", str(style), *more)
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        checkpoint = load_checkpoint(config.output / "checkpoint.safetensors")
        assert checkpoint.metadata["name"] == "stripes"
        return checkpoint.metadata["training"]["before"]

    udnie = begun_with("first", "udnie")
    assert (udnie["style"]["artist"], udnie["tier"]) == ("Francis Picabia", "fast")
    assert begun_with("second", find_style("udnie")) == udnie
    assert begun_with("third", tmp_path / "first")["before"] == udnie
    assert begun_with("fourth", "mosaic", "--tier", "quality")["tier"] == "quality"
    for style, said in (("udn", "style must be one of"), (find_style("mosaic", "quality"), "must be a fast network")):
        failed = CliRunner().invoke(app, _arguments(make_config("none"), "--warm-start", str(style)))
        assert said in str(failed.exception)
