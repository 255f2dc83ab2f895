"""Every command and every Python block of the guides is run, or skipped for a reason: `pytest -rs` lists them.

The guides are all Markdown files of the repository. In each, in order:

- lines of `sh` blocks, and inline code that begins with a program's name, are run by bash;
- `python` blocks are executed one after the other in one namespace;
- `toml` blocks are written to the file that the text before them names, for the commands after them;
- `text` blocks are pictures made of letters. Any other block fails: say what it is.

Each guide has a folder of its own with small files under the names that the guides use (`workshop`). What is run
differently from what the guide says, because there is no camera or little time, stands in `RULES` and nowhere else.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import typer.main
from typer.testing import CliRunner

from impasto.assets import DEMO_CLIP, find_style, installed_styles
from impasto.export.artifact import Artifact
from impasto.realtime import bench, cli_common
from impasto.realtime.cli import app as impasto
from impasto.realtime.cli_verify import EXIT_DIFFERENT

from .conftest import exports_remembered

ROOT = Path(__file__).parents[1]
GUIDES = sorted(path.relative_to(ROOT).as_posix() for place in ("*.md", "[a-z]*/*.md") for path in ROOT.glob(place))
PROGRAMS = r"(stylize-video|stylize-webcam|impasto|python|pip|torchrun|curl|ffmpeg|ray|winget|brew|sudo|export) \S"
TIMEOUT_SECONDS = 200


@dataclass(frozen=True)
class Rule:
    """What happens to commands that hold `match`, a regular expression; the first rule that matches counts."""

    match: str
    skip: str = ""
    """Why the command is not run."""
    instead: str | None = None
    """Takes the place of what `match` found."""
    more: str = ""
    """Appended; of options that are given twice the last one counts."""
    needs: str = ""
    """A Python package without which the command is skipped."""


LOSS = "--loss-weights $LOSS_WEIGHTS"
TRAINING = f"--steps 4 --batch-size 2 --crop-size 64 --style-size 64 --precision fp32 --sample-every 4 {LOSS}"
PAINTING = f"--size 96 --min-size 64 --iterations 3 {LOSS}"
LIVE = "--seconds 0.5 --port 0 --no-open"

RULES = (
    # The README's first command, without what .ci/run does: a new environment with this package in it.
    Rule(r"^python3 -m venv .*/(?=stylize-video assets/demo.mp4)", instead="", more="--style $SHIPPED_STYLE"),
    Rule(r"-m venv|pip install|PIP_CONSTRAINT", skip="installs packages: .ci/run does that in a fresh environment"),
    Rule(r"bin/pytest|bin/ruff|bin/coverage|\.ci/run", skip="is what runs this test"),
    Rule(r"^\.venv/bin/python tests/fuzz.py", skip="takes an hour: tests/test_fuzz.py runs a moment of it"),
    Rule(r"^mkdir -p build/ns", skip="changes the checkout"),
    Rule(r"^(winget|brew|sudo) ", skip="changes the operating system"),
    Rule(r"^python (tests/benchmarks/|-m impasto.assets.make_)", skip="takes minutes or more, on a quiet machine"),
    Rule(r"tensorrt", skip="needs an NVIDIA card"),
    Rule(r"^ray |--cluster", skip="needs machines with Ray: tests/test_cluster.py has a cluster on one"),
    Rule(r"--virtual-camera", skip="needs a virtual camera: tests/test_virtualcam.py has a simulated one"),
    Rule(r"^impasto styles --preview", skip="paints with every style: tests/test_styles.py"),
    Rule(r"export int8", skip="ends with exit code 3 where int8 is no gain: tests/test_quantize.py"),
    Rule(r"check .*--run", skip="paints 4K with every engine: tests/test_to_onnx.py does so with a small network"),
    Rule(r"^T=…", skip="is the token of the panel that this test has started"),
    Rule(r"^impasto (?!doctor|bench|styles)[a-z][a-z -]*$", more="--help"),  # a name in the text
    Rule(r"^stylize-webcam(?! test)", instead="stylize-webcam test", more=LIVE),  # no camera here
    Rule(r"^stylize-webcam", more=LIVE),
    Rule(r"^impasto bench", more="udnie --seconds 0.1 --size 64x64 --device cpu --precision fp32 --in-flight 1"),
    Rule(r"^torchrun", skip="takes as long as all others together: tests/test_train.py runs two processes"),
    Rule(r"^impasto train \S+ --", more=TRAINING, needs="torch"),
    Rule(r"^impasto gatys \S+ \S", more=PAINTING, needs="torch"),
    Rule(r"^impasto evaluate", more=f"--evaluations 1,2 --num-photos 1 {LOSS}", needs="torch"),
    Rule(r"^impasto export \S+ -o", more="--photos photos", needs="torch"),
    Rule(r"^impasto stability", more="--frames 4"),
)


DONE_ANYWHERE: set[str] = set()
"""Commands that were run and that need nothing of their guide's folder: live ones, and those about the machine."""


@dataclass(frozen=True)
class Step:
    """A command, or a block that is not `sh`."""

    guide: str
    line: int
    """From 1, in the guide."""
    language: str
    text: str
    before: str = ""
    """The paragraph above a block."""

    def __str__(self) -> str:
        return f"{self.guide}:{self.line}: {self.text.strip().splitlines()[0]}"


def steps_of(guide: str) -> list[Step]:
    """All of a guide's commands and blocks, in order."""
    text = (ROOT / guide).read_text(encoding="utf-8")
    steps = []
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start()) + 2
        body = "".join(row.removeprefix(block[1]) for row in block[3].splitlines(keepends=True))
        before = text[: block.start()].rstrip().rpartition("\n\n")[2]
        if block[2] == "sh":
            steps += [Step(guide, line + offset, "sh", command) for offset, command in commands_of(body)]
        else:
            steps.append(Step(guide, line, block[2], body, before))
        text = text[: block.start()] + re.sub(r"[^\n]", " ", block[0]) + text[block.end() :]
    for code in re.finditer(r"`([^`\n]+)`", text):
        if re.match(PROGRAMS, code[1]):
            steps.append(Step(guide, text.count("\n", 0, code.start()) + 1, "sh", code[1]))
    return sorted(steps, key=lambda step: step.line)


def commands_of(body: str) -> Iterator[tuple[int, str]]:
    """Line offset and command, continuation lines joined, comments left out."""
    whole, begun = "", 0
    for offset, row in enumerate(body.splitlines()):
        begun = begun if whole else offset
        whole += row.rstrip("\\")
        if row.endswith("\\"):
            continue
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield begun, re.sub(r"\s+# .*", "", whole).strip()
        whole = ""


def rule_for(command: str) -> Rule | None:
    return next((rule for rule in RULES if re.search(rule.match, command)), None)


ALL_STEPS = [step for guide in GUIDES for step in steps_of(guide)]


@pytest.mark.parametrize("guide", sorted({step.guide for step in ALL_STEPS}))
def test_guide(guide: str, workshop: "Workshop", subtests: pytest.Subtests) -> None:
    for step in ALL_STEPS:
        if step.guide == guide:
            with subtests.test(str(step)):
                if reason := workshop.run(step):
                    pytest.skip(f"{step}: {reason}")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.match)
def test_every_rule_is_needed(rule: Rule) -> None:
    assert any(rule_for(step.text) is rule for step in ALL_STEPS if step.language == "sh")


def test_every_option_that_is_named_exists() -> None:
    known = set(options_of(typer.main.get_command(impasto)))
    for guide in GUIDES:
        for code in re.findall(r"`([^`\n]+)`", (ROOT / guide).read_text(encoding="utf-8")):
            if not re.match(r"(pip|python|brew|winget|sudo|curl|torchrun|ffmpeg|ray|mkdir|\.venv)", code):
                unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)) - known
                assert not unknown, f"{guide}: {code}"


@pytest.mark.parametrize("guide", GUIDES)
def test_every_link_leads_somewhere(guide: str) -> None:
    text = (ROOT / guide).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (ROOT / guide).parent / path if path else ROOT / guide
        assert target.exists(), f"{guide}: {link}"
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings], link


def test_the_readme_names_every_variable_and_exit_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("[a-z]*/*.py") if path.parent.name != "tests"]
    variables = {name for source in sources for name in re.findall(r"environ\S*\"(IMPASTO_\w+)\"", source)}
    assert "IMPASTO_STYLES" in variables
    assert [name for name in sorted(variables) if f"`{name}" not in text] == []
    codes = {value for name, value in vars(cli_common).items() if name.startswith("EXIT_") and isinstance(value, int)}
    said = re.findall(r"\b\d+\b", text.partition("the exit code says")[2].partition("\n\n")[0])
    assert {int(code) for code in said} == codes | {EXIT_DIFFERENT}


def options_of(command: object) -> Iterator[str]:
    """Every option of a command and of those below it."""
    yield "--help"
    for parameter in getattr(command, "params", ()):
        yield from (*parameter.opts, *parameter.secondary_opts)
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from options_of(command.get_command(None, name))


def alone(command: str, environment: dict[str, str]) -> list[str]:
    """The words after `impasto` of a command that needs no shell and is not live; nothing for others."""
    words = [environment.get(word.removeprefix("$"), word) for word in shlex.split(command)]
    if words[0] == "stylize-video":
        words[:1] = ["impasto", "video"]
    return words[1:] if words[0] == "impasto" and not re.search(r"[|*;&<>]", command) else []


class Workshop:
    """A folder in which a guide is followed."""

    def __init__(self, folder: Path, environment: dict[str, str], stack: ExitStack) -> None:
        self._folder = folder
        self._environment = environment
        self._stack = stack
        self._names: dict[str, object] = {"__name__": "guide"}
        self._panel: str | None = None
        self._done: set[str] = set()

    def run(self, step: Step) -> str | None:
        """Run it, or say why not."""
        if step.language == "sh":
            return self._shell(step.text)
        if step.language == "python":
            return self._python(step)
        if step.language == "toml":
            name = re.findall(r"`([\w.-]+\.toml)`", step.before)
            assert name, f"the text before {step} must name its file"
            (self._folder / name[-1]).write_text(step.text, encoding="utf-8")
        elif step.language == "text":
            return "is text"
        else:
            pytest.fail(f"a block must be sh, python, toml or text, got {step.language!r}")
        return None

    def _shell(self, command: str) -> str | None:
        if shutil.which("bash") is None:
            return "needs bash"
        if rule := rule_for(command):
            if rule.skip:
                return rule.skip
            if rule.needs and importlib.util.find_spec(rule.needs) is None:
                return f"needs {rule.needs}"
            command = re.sub(rule.match, rule.instead, command) if rule.instead is not None else command
            command += f" {rule.more}"
        if command in self._done | DONE_ANYWHERE:
            return "is run elsewhere"
        anywhere = re.match(r"stylize-webcam|impasto (doctor|bench)", command)
        (DONE_ANYWHERE if anywhere else self._done).add(command)
        if "http://127.0.0.1:8420" in command:
            command = command.replace("http://127.0.0.1:8420", self._running_panel())
        if command.startswith("impasto train ") and "--resume" not in command:
            shutil.rmtree(self._folder / "runs")  # what it makes was given for the guides that go on from there
        if missing := [name for name in re.findall(r"(?:^|\| )(curl|ffmpeg)\b", command) if not shutil.which(name)]:
            return f"needs {missing[0]}"
        if words := alone(command, self._environment):
            return self._in_this_process(command, words)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=self._folder, env=self._environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert '"error"' not in done.stdout, f"{command}\n{done.stdout}"
        return None

    def _in_this_process(self, command: str, words: list[str]) -> None:
        """The command's own function, without the seconds that another interpreter takes to import torch."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self._folder)
            patch.setattr(bench, "PEAK_SHAPES", ((64, 2),))
            patch.setattr(bench, "PEAK_SECONDS", 0.01)
            for name, value in self._environment.items():
                patch.setenv(name, value)
            done = CliRunner().invoke(impasto, words)
        assert done.exit_code == 0, f"{command}\n{done.output}"

    def _python(self, step: Step) -> str | None:
        needed = re.findall(r"^(?:import|from) (\w+)", step.text, re.MULTILINE)
        needed += ["torch"] if "impasto.training" in step.text or "export_onnx" in step.text else []
        if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
            return f"needs {missing[0]}"
        text = step.text
        if "TrainConfig(" in text:  # seconds instead of minutes, as for the command
            text = text.replace('name="painting")', 'name="painting", **short_training)')
            self._names["short_training"] = {
                "steps": 2, "batch_size": 2, "crop_size": 64, "style_size": 64, "precision": "fp32",
                "loss_weights": Path(self._environment["LOSS_WEIGHTS"]),
            }  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self._folder)
            if 'os.environ["T"]' in text:
                patch.setenv("PANEL", self._running_panel())
                patch.setenv("T", self._environment["T"])
            # Blank lines in front, so that a traceback names the guide's own line.
            code = compile("\n" * (step.line - 1) + text, str(ROOT / step.guide), "exec")
            exec(code, self._names)
        return None

    def _running_panel(self) -> str:
        """The address of a live run's panel; its token is the variable T from then on."""
        if self._panel is None:
            self._panel, self._environment["T"] = self._stack.enter_context(running_panel(self._environment))
        return self._panel


@contextmanager
def running_panel(environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Address and token of the panel of a live run on the test pattern."""
    pytest.importorskip("aiohttp")
    command = ["stylize-webcam", "test", "--style", "mosaic", "--size", "320x192", "--port", "0", "--no-open"]
    program = subprocess.Popen(
        [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]],
        env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = next(line.split()[1] for line in program.stderr or [] if line.startswith("panel:"))
        next(line for line in program.stderr or [] if "painting" in line)
        base, _, token = address.partition("/?token=")
        yield base, token
    finally:
        program.terminate()
        program.communicate(timeout=30)


@pytest.fixture
def workshop(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    make_artifact: Callable[..., Artifact],
    small_model: onnx.ModelProto,
    tiny_loss_weights: Path,
    random_checkpoint: Path,
) -> Iterator[Workshop]:
    """A folder with all that the guides take as given, and small styles that hide those that ship."""
    styles = tmp_path / "styles"
    styles.mkdir()
    for name in installed_styles():
        shutil.copy(make_artifact(small_model, name=name, stride=2).path, styles / f"{name}.fast.onnx")
    place = tmp_path / "guide"
    for folder in ("assets", "clips", "paintings", "runs/painting.fast"):
        (place / folder).mkdir(parents=True)
    shutil.copy(DEMO_CLIP, place / "assets" / "demo.mp4")
    clip = make_clip(height=96, width=128, sound=True)
    for name in ("holiday.mp4", "film.mp4", "clips/a.mp4", "clips/b.mp4"):
        shutil.copy(clip, place / name)
    shutil.copy(random_checkpoint, place / "runs/painting.fast/checkpoint.safetensors")
    (place / "cues.toml").write_text('[[cue]]\nat = 0.2\nstyle = "udnie"\n')
    rng = np.random.default_rng(0)
    pictures = ["painting.jpg", "a.jpg", "b.jpg", "mask.png", "photo.jpg", "held-out/0.jpg"]
    for name in (*pictures, *(f"photos/{n}.jpg" for n in range(8))):
        (place / name).parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(place / name), cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC))
    shutil.copy(place / "painting.jpg", place / "paintings")
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "IMPASTO_STYLES": str(styles), "IMPASTO_CONFIG": str(tmp_path / "config"),
        "IMPASTO_CACHE": str(tmp_path / "cache"), "LOSS_WEIGHTS": str(tiny_loss_weights), "DISPLAY": "",
        "SHIPPED_STYLE": str(find_style("mosaic")),
    }  # fmt: skip
    with ExitStack() as stack:
        yield Workshop(place, environment, stack)


@pytest.fixture(scope="module", autouse=True)
def one_export() -> Iterator[None]:
    """Three guides export the same network."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    from impasto.export import to_onnx

    with exports_remembered(to_onnx):
        yield


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of the fast tier that has learned nothing; an empty file without torch."""
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    if importlib.util.find_spec("torch") is None:
        path.touch()
        return path
    import torch

    from impasto.training import Checkpoint, NetworkConfig, build_network, save_checkpoint

    torch.manual_seed(0)
    network = build_network(replace(NetworkConfig.for_tier("fast"), width=4, blocks=1))
    save_checkpoint(path, Checkpoint(network.config, network.state_dict(), {"name": "painting", "tier": "fast"}))
    return path
