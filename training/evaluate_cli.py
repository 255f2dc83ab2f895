"""`impasto evaluate`: judge styles against Gatys' optimisation. Imports torch only once the command runs.

The engines that run artifacts live above this package, so the command is made by `evaluate_app` with a function that
opens one.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import cli_options as option
from .cli_common import EXIT_INTERRUPTED, every_so_often, needs_train_extra
from .errors import TrainingError
from .evaluate_output import Wanted, show_any, show_reports
from .interrupt import stop_on_interrupt

if TYPE_CHECKING:
    from .adain_checkpoint import AdainCheckpoint
    from .data import Picture
    from .evaluate import NetworkReport, Paintings, ReferenceStart, Subject
    from .evaluate_any import AnyReport
    from .gatys_optimize import Evaluation
    from .loss_network import LossNetwork

_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class OpenedStyle:
    """An artifact, loaded."""

    name: str
    tier: str
    style_sha256: str
    """Of the style image's file."""
    training: Mapping[str, Any]
    paint: "Callable[[Picture], Picture]"
    engine: str
    close: Callable[[], None] = field(default=lambda: None)
    like: "Callable[[Picture], Callable[[Picture], Picture]] | None" = None
    """For a network that paints like any painting: given one, what paints like it."""
    painting: str = ""
    """Title of the style image, and who painted it, for errors."""
    folder: Path | None = None
    """Where the style's own file lies."""


OpenArtifacts = Callable[[str, str], Sequence[OpenedStyle]]
"""Given an artifact's path, or an installed style's name for all of its tiers, and `--device`, loads them."""


def evaluate_app(open_artifacts: OpenArtifacts) -> typer.Typer:
    """The command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"obj": open_artifacts})(evaluate)
    return app


def evaluate(
    context: typer.Context,
    styles: Annotated[
        list[str],
        typer.Argument(metavar="STYLE", help="Installed names, artifacts, checkpoints or folders of runs."),
    ],
    photos: Annotated[Path, typer.Option(help="Folder of photographs that no network was trained on.")],
    paintings: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the paintings that the styles were trained on; found by their SHA-256. Default: the "
            "current folder, the folders in it and beside the style's file. Networks that paint like any need it."
        ),
    ] = None,
    num_photos: Annotated[
        int | None, typer.Option(min=1, help="Only so many photographs, evenly over the folder.")
    ] = None,
    evaluations: Annotated[
        str, typer.Option(help="Look at Gatys after so many evaluations; the largest decides how long this takes.")
    ] = "25,50,100,200,400",
    gatys_start: Annotated[
        Literal["content", "noise"],
        typer.Option(help="What Gatys begins with: the photograph, or white noise as Johnson et al. had it."),
    ] = "content",
    num_paintings: Annotated[
        int | None, typer.Option(min=1, help="For networks that paint like any: only so many, evenly.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet: photograph, Gatys, quality, fast.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the figures to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures for machines instead of the table.")] = False,
    loss_network: option.LossNetwork = "vgg19",
    loss_weights: option.LossWeights = None,
    device: Annotated[str, typer.Option(help="Of artifacts: auto, or the device that must be used.")] = "auto",
    gatys_device: Annotated[
        str, typer.Option(help="Of Gatys and checkpoints: auto, cpu, cuda, cuda:1, mps …")
    ] = "auto",
    threads: option.Threads = 0,
    overwrite: option.Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Judge styles: losses, structure kept, style distance, and how many Gatys evaluations each is worth."""
    counts = _parse_evaluations(evaluations)
    wanted = Wanted(sheet, output, as_json)
    folders = [folder for folder in (photos, paintings) if folder is not None and folder.is_dir()]
    wanted.check(overwrite=overwrite, originals=(path for folder in folders for path in folder.rglob("*")))
    _import_torch(threads)
    from .device import torch_device
    from .loss_network import load_loss_network

    where = torch_device(gatys_device)
    held_out = _read_photos(photos, num_photos)
    with ExitStack() as stack, stop_on_interrupt("stopping; Ctrl-C again stops at once") as stop:
        opened = []
        for text in styles:
            for style in _open(text, context.obj, device=device, checkpoints_on=str(where)):
                stack.callback(style.close)
                opened.append((text, style))
        network = load_loss_network(loss_network, weights=loss_weights).to(where)
        judge = _Judge(held_out, network, counts, gatys_start, quiet=quiet, should_stop=stop.is_set)
        shown = _judge_and_show(judge, opened, paintings, num_paintings, wanted)
    if stop.is_set():
        what = "the figures are of the photographs done so far" if shown else "there are no figures yet"
        print(f"stopped; {what}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)


def _judge_and_show(
    judge: "_Judge",
    opened: Sequence[tuple[str, OpenedStyle]],
    paintings: Path | None,
    num_paintings: int | None,
    wanted: Wanted,
) -> bool:
    """Whether there were figures to show: one who stops at once has none."""
    if any(style.like for _, style in opened):
        if paintings is None:
            raise ValueError("--paintings must be a folder of paintings for networks that paint like any, got none")
        report = judge.any_painting(opened, _read_photos(paintings, num_paintings))
        if report is not None:
            show_any(report, wanted)
        return report is not None
    reports = judge.styles(_subjects(opened, paintings))
    if reports:
        show_reports(reports, wanted)
    return bool(reports)


@dataclass(frozen=True)
class _Judge:
    """What every style is measured with."""

    photos: "Mapping[str, Picture]"
    loss_network: "LossNetwork"
    evaluations: Sequence[int]
    start: "ReferenceStart"
    quiet: bool
    should_stop: Callable[[], bool]

    def styles(self, subjects: "Sequence[Subject]") -> "list[NetworkReport]":
        """Each against Gatys with its own painting and weights."""
        from .evaluate import evaluate as judge

        reports = []
        for number, subject in enumerate(subjects, 1):
            if self.should_stop():
                break
            show = self._printer(f"{number}/{len(subjects)} {subject.name} ({subject.tier})")
            try:
                report = judge(
                    subject, self.photos, self.loss_network,
                    evaluations=self.evaluations, start=self.start, callback=show, should_stop=self.should_stop,
                )  # fmt: skip
            except ValueError:
                if not self.should_stop():  # else it has not finished one photograph
                    raise
            else:
                reports.append(report)
        return reports

    def any_painting(
        self, opened: Sequence[tuple[str, OpenedStyle]], paintings: "Mapping[str, Picture]"
    ) -> "AnyReport | None":
        """Networks that paint like any painting, on paintings that they never saw; None if stopped before one pair."""
        from .evaluate import LossSettings
        from .evaluate_any import Contender, evaluate_any

        contenders: list[Contender] = []
        for text, style in opened:
            if style.like is None:
                raise ValueError(f"styles must be all for any painting or all for one, got {text} beside one for any")
            name = style.name if style.name not in [c.name for c in contenders] else f"{style.name} ({text})"
            contenders.append(
                Contender(name, style.like, LossSettings.of_training(style.training, where=text), style.engine)
            )
        try:
            return evaluate_any(
                contenders, self.photos, paintings, self.loss_network,
                evaluations=self.evaluations, start=self.start,
                callback=self._printer(", ".join(c.name for c in contenders)),
                should_stop=self.should_stop,
            )  # fmt: skip
        except ValueError:
            if not self.should_stop():  # else it has not finished one pair
                raise
            return None

    def _printer(self, title: str) -> "Callable[[str, Evaluation], None]":
        """A line now and then on standard error."""
        is_time = every_so_often()

        def show(photo: str, evaluation: "Evaluation") -> None:
            if not self.quiet and is_time():
                state = f"evaluation {evaluation.number}/{self.evaluations[-1]}, total {evaluation.best:.4g}"
                print(f"{title}: {photo}, Gatys {state}", file=sys.stderr)

        return show


def _parse_evaluations(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError as exc:
        raise ValueError(f"--evaluations must be numbers with commas, got {text!r}") from exc
    if counts[0] < 1:
        raise ValueError(f"--evaluations must be numbers from 1, got {text!r}")
    return counts


def _import_torch(threads: int) -> None:
    with needs_train_extra("evaluating"):
        import torch
    if threads:
        torch.set_num_threads(threads)


def _read_photos(folder: Path, number: int | None) -> "dict[str, Picture]":
    """Pictures by their names, evenly over the folder; the next one takes the place of one that cannot be read."""
    from .data import find_pictures, read_picture

    paths = find_pictures(folder)
    number = min(number or len(paths), len(paths))
    pictures: dict[int, Picture] = {}
    damaged: dict[Path, TrainingError] = {}
    for first in (i * len(paths) // number for i in range(number)):
        for index in (*range(first, len(paths)), *range(first)):
            if index in pictures or paths[index] in damaged:
                continue
            try:
                pictures[index] = read_picture(paths[index])
                break
            except TrainingError as exc:
                damaged[paths[index]] = exc
    if not pictures:
        reason = next(iter(damaged.values()))
        raise TrainingError(f"{folder} must hold a picture that can be read, got {len(damaged)} others: {reason}")
    if damaged:
        print(
            f"skipped in {folder}, not pictures or damaged: {len(damaged)}, the first {min(damaged)}", file=sys.stderr
        )
    return {str(paths[index].relative_to(folder)): pictures[index] for index in sorted(pictures)}


def _open(text: str, open_artifacts: OpenArtifacts, *, device: str, checkpoints_on: str) -> Sequence[OpenedStyle]:
    path = Path(text)
    if path.is_dir():
        return [_open_checkpoint(path / _CHECKPOINT, checkpoints_on)]
    if path.suffix == ".safetensors":
        return [_open_checkpoint(path, checkpoints_on)]
    return open_artifacts(text, device)


def painting_title(title: str, artist: str) -> str:
    """Of a style image, for errors; empty where neither is known."""
    return f"{title or 'a painting'} by {artist}" if artist else title


def _subjects(opened: Sequence[tuple[str, OpenedStyle]], folder: Path | None) -> "list[Subject]":
    from .evaluate import LossSettings, Paintings, Subject

    paintings = Paintings(folder)
    seen: set[tuple[str, str]] = set()
    names = []
    for text, style in opened:  # two runs of one name are two styles
        names.append(f"{style.name} ({text})" if (style.name, style.tier) in seen else style.name)
        seen.add((style.name, style.tier))
    return [
        Subject(
            name=name,
            tier=style.tier,
            paint=style.paint,
            settings=LossSettings.of_training(style.training, where=text),
            painting=_painting(style, paintings),
            engine=style.engine,
        )
        for name, (text, style) in zip(names, opened, strict=True)
    ]


def _painting(style: OpenedStyle, paintings: "Paintings") -> "Picture":
    recorded = str(style.training.get("style_image") or "")  # the first ones did not write it
    named = ", ".join(text for text in (style.painting, Path(recorded).name) if text)
    what = f"the painting of {style.name} ({style.tier})" + (f", {named}," if named else "")
    return paintings.find(style.style_sha256, what=what, recorded=recorded, beside=style.folder)


def _open_checkpoint(path: Path, device: str) -> OpenedStyle:
    from .adain_checkpoint import is_adain_checkpoint, load_adain_checkpoint
    from .checkpoint import load_checkpoint
    from .evaluate import checkpoint_painter

    if is_adain_checkpoint(path):
        return _opened_any(load_adain_checkpoint(path), device)
    checkpoint = load_checkpoint(path)
    known = checkpoint.metadata
    try:
        return OpenedStyle(
            known["name"],
            known["tier"],
            known["style"]["sha256"],
            known["training"],
            checkpoint_painter(checkpoint.build().to(device)),
            f"torch on {device} in fp32",
            painting=painting_title(str(known["style"].get("title", "")), str(known["style"].get("artist", ""))),
            folder=path.parent,
        )
    except (KeyError, TypeError) as exc:
        raise TrainingError(f"the checkpoint must say what it was trained on, {exc} is missing: {path}") from exc


def _opened_any(checkpoint: "AdainCheckpoint", device: str) -> OpenedStyle:
    from .evaluate_any import checkpoint_like

    known = checkpoint.metadata
    networks = checkpoint.build()
    networks.to(device)
    like = checkpoint_like(networks, style_side=int(known["training"]["style_size"]))
    name, engine = f"{known['name']} {checkpoint.kind}", f"torch on {device} in fp32"
    return OpenedStyle(name, "fast", "", known["training"], like(_nothing()), engine, like=like)


def _nothing() -> "Picture":
    import numpy as np

    return np.full((64, 64, 3), 128, np.uint8)
