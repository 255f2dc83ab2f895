"""`impasto evaluate`: judge styles against Gatys' optimisation. Imports torch only once the command runs.

The engines that run artifacts live above this package, so the command is made by `evaluate_app` with a function that
opens one.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .errors import TrainingError
from .interrupt import stop_on_interrupt

if TYPE_CHECKING:
    from .adain_checkpoint import AdainCheckpoint
    from .data import Picture
    from .evaluate import NetworkReport, Score, Subject
    from .gatys_optimize import Evaluation
    from .loss_network import LossNetwork

_EXIT_INTERRUPTED = 130
_LINE_EVERY_SECONDS = 10.0
_PHOTOS_ON_SHEET = 4
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


def evaluate_app(open_artifacts: Callable[[str, str], Sequence[OpenedStyle]]) -> typer.Typer:
    """The command.

    Args:
        open_artifacts: given an artifact's path, or an installed style's name for all of its tiers, and `--device`,
            loads them.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def evaluate(
        styles: Annotated[
            list[str],
            typer.Argument(metavar="STYLE...", help="Installed names, artifacts, checkpoints or folders of runs."),
        ],
        photos: Annotated[Path, typer.Option(help="Folder of photographs that no network was trained on.")],
        paintings: Annotated[Path, typer.Option(help="Folder with the style images; found by their SHA-256.")],
        num_photos: Annotated[
            int | None, typer.Option(min=1, help="Only so many photographs, evenly over the folder.")
        ] = None,
        evaluations: Annotated[
            str, typer.Option(help="Look at Gatys after so many evaluations; the largest decides how long this takes.")
        ] = "25,50,100,200,400",
        num_paintings: Annotated[
            int | None, typer.Option(min=1, help="For networks that paint like any: only so many, evenly.")
        ] = None,
        sheet: Annotated[
            Path | None, typer.Option(help="Write a contact sheet: photograph, Gatys, quality, fast.")
        ] = None,
        output: Annotated[
            Path | None, typer.Option("-o", "--output", help="Write the figures to this JSON file.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Figures for machines instead of the table.")] = False,
        loss_network: Annotated[
            Literal["vgg16", "vgg19"], typer.Option(help="Fetched unless --loss-weights.")
        ] = "vgg19",
        loss_weights: Annotated[Path | None, typer.Option(help="Local weight file of the loss network.")] = None,
        device: Annotated[str, typer.Option(help="Of artifacts: auto, or the device that must be used.")] = "auto",
        gatys_device: Annotated[
            str, typer.Option(help="Of Gatys and checkpoints: auto, cpu, cuda, cuda:1, mps …")
        ] = "auto",
        threads: Annotated[int, typer.Option(min=0, help="Of PyTorch on the CPU; 0 for its own choice.")] = 0,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    ) -> None:
        """Judge styles: losses, structure kept, style distance, and how many Gatys evaluations each is worth."""
        counts = _parse_evaluations(evaluations)
        _check_targets(sheet, output, overwrite=overwrite)
        _import_torch(threads)
        from .device import torch_device
        from .evaluate import evaluate as judge
        from .loss_network import load_loss_network

        where = torch_device(gatys_device)
        network = load_loss_network(loss_network, weights=loss_weights).to(where)
        held_out = _read_photos(photos, num_photos)
        reports = []
        with ExitStack() as stack, stop_on_interrupt("stopping; Ctrl-C again stops at once") as stop:
            opened = []
            for text in styles:
                checkpoint = _checkpoint_path(text)
                found = [_open_checkpoint(checkpoint, str(where))] if checkpoint else open_artifacts(text, device)
                for style in found:
                    stack.callback(style.close)
                    opened.append((text, style))
            if any(style.like for _, style in opened):
                _judge_any(
                    opened, held_out, _read_photos(paintings, num_paintings), network, counts,
                    sheet=sheet, output=output, as_json=as_json, quiet=quiet, should_stop=stop.is_set,
                )  # fmt: skip
                opened = []
            subjects = [_subject(style, paintings, where=text) for text, style in opened]
            for number, subject in enumerate(subjects, 1):
                if stop.is_set():
                    break
                show = _line_printer(f"{number}/{len(subjects)} {subject.name} ({subject.tier})", counts, quiet=quiet)
                try:
                    reports.append(
                        judge(subject, held_out, network, evaluations=counts, callback=show, should_stop=stop.is_set)
                    )
                except ValueError:
                    if not stop.is_set():
                        raise
        if reports:
            _write(reports, sheet=sheet, output=output, as_json=as_json)
        if stop.is_set():
            print("stopped; the figures are of the photographs done so far", file=sys.stderr)
            raise typer.Exit(_EXIT_INTERRUPTED)

    return app


def _judge_any(
    opened: Sequence[tuple[str, OpenedStyle]],
    photos: "Mapping[str, Picture]",
    paintings: "Mapping[str, Picture]",
    loss_network: "LossNetwork",
    counts: Sequence[int],
    *,
    sheet: Path | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    should_stop: Callable[[], bool],
) -> None:
    """Networks that paint like any painting, on paintings that they never saw."""
    from .evaluate import LossSettings
    from .evaluate_any import Contender, evaluate_any
    from .evaluate_any_cli import write_report

    contenders: list[Contender] = []
    for text, style in opened:
        if style.like is None:
            raise ValueError(f"styles must be all for any painting or all for one, got {text} beside one for any")
        name = style.name if style.name not in [c.name for c in contenders] else f"{style.name} ({text})"
        contenders.append(
            Contender(name, style.like, LossSettings.of_training(style.training, where=text), style.engine)
        )
    show = _line_printer(", ".join(c.name for c in contenders), counts, quiet=quiet)
    report = evaluate_any(
        contenders, photos, paintings, loss_network, evaluations=counts, callback=show, should_stop=should_stop
    )
    write_report(report, sheet=sheet, output=output, as_json=as_json)


def _parse_evaluations(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError as exc:
        raise ValueError(f"--evaluations must be numbers with commas, got {text!r}") from exc
    if counts[0] < 1:
        raise ValueError(f"--evaluations must be numbers from 1, got {text!r}")
    return counts


def _check_targets(sheet: Path | None, output: Path | None, *, overwrite: bool) -> None:
    from .sheets import check_target

    if sheet:
        check_target(sheet, overwrite=overwrite)
    if output and output.exists() and not overwrite:
        raise TrainingError(f"{output} must not exist yet; pass --overwrite to replace it")
    if output and not output.parent.is_dir():
        raise TrainingError(f"{output.parent} must be a folder")


def _import_torch(threads: int) -> None:
    try:
        import torch
    except ModuleNotFoundError as exc:
        raise TrainingError(f"evaluating needs {exc.name}: pip install 'impasto[train]'") from exc
    if threads:
        torch.set_num_threads(threads)


def _read_photos(folder: Path, number: int | None) -> "dict[str, Picture]":
    from .data import find_pictures, read_picture

    paths = find_pictures(folder)
    if number is not None and number < len(paths):
        paths = [paths[i * len(paths) // number] for i in range(number)]
    return {str(path.relative_to(folder)): read_picture(path) for path in paths}


def _checkpoint_path(text: str) -> Path | None:
    """The checkpoint that is meant, or None for an artifact."""
    path = Path(text)
    if path.is_dir():
        return path / _CHECKPOINT
    return path if path.suffix == ".safetensors" else None


def _subject(style: OpenedStyle, paintings: Path, *, where: str) -> "Subject":
    from .evaluate import LossSettings, Subject, find_painting

    return Subject(
        name=style.name,
        tier=style.tier,
        paint=style.paint,
        settings=LossSettings.of_training(style.training, where=where),
        painting=find_painting(paintings, style.style_sha256),
        engine=style.engine,
    )


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


def _line_printer(title: str, counts: Sequence[int], *, quiet: bool) -> "Callable[[str, Evaluation], None]":
    """A line now and then on standard error."""
    last_line = [0.0]

    def show(photo: str, evaluation: "Evaluation") -> None:
        if quiet or time.monotonic() - last_line[0] < _LINE_EVERY_SECONDS:
            return
        last_line[0] = time.monotonic()
        print(
            f"{title}: {photo}, Gatys evaluation {evaluation.number}/{counts[-1]}, total {evaluation.best:.4g}",
            file=sys.stderr,
        )

    return show


def _write(reports: "Sequence[NetworkReport]", *, sheet: Path | None, output: Path | None, as_json: bool) -> None:
    from .sheets import contact_sheet, write_picture

    figures = json.dumps([report.to_json() for report in reports], indent=2)
    if output:
        part = output.with_name(f".{output.name}.part")
        try:
            part.write_text(figures + "\n")
            part.replace(output)
        except OSError as exc:
            raise TrainingError(f"cannot write {output}: {exc.strerror or exc}") from exc
    if sheet:
        write_picture(sheet, contact_sheet(list(_sheet_rows(reports))))
    if as_json:
        print(figures)
    else:
        _print_table(reports)


def _sheet_rows(reports: "Sequence[NetworkReport]") -> "Iterator[list[tuple[str, Picture | None]]]":
    """For each style a few photographs: photograph, Gatys by the quality tier's weights, quality, fast."""
    for name in dict.fromkeys(report.subject.name for report in reports):
        tiers = {report.subject.tier: report for report in reports if report.subject.name == name}
        reference = tiers.get("quality") or next(iter(tiers.values()))
        for i, photo in enumerate(reference.photos[:_PHOTOS_ON_SHEET]):
            row: list[tuple[str, Picture | None]] = [
                (f"{name}: {photo.photo}", photo.pictures["photo"]),
                (f"Gatys, {reference.evaluations[-1]} evaluations", photo.pictures["gatys"]),
            ]
            for tier in ("quality", "fast"):
                judged = tiers.get(tier)
                painted = judged.photos[i] if judged and i < len(judged.photos) else None
                row.append(
                    (_caption(tier, painted.network), painted.pictures["network"]) if painted else (f"{tier}: -", None)
                )
            yield row


def _caption(tier: str, score: "Score") -> str:
    return f"{tier}: structure {score.structure_kept:.2f}, style {score.style_distance:.3f}"


def _print_table(reports: "Sequence[NetworkReport]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "style", "picture by", "content", "style", "tv", "total", "structure", "distance", "grid", "seconds", "equals",
        "speed-up", box=None, pad_edge=False, title=f"medians over {len(reports[0].photos)} photographs",
    )  # fmt: skip
    for report in reports:
        name = f"{report.subject.name} ({report.subject.tier})"
        table.add_row(name, report.subject.engine, *_cells(report.network), *_equals(report))
        for count, score in report.gatys.items():
            table.add_row("", f"Gatys, {count}", *_cells(score), "", "")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _cells(score: "Score") -> list[str]:
    return [
        f"{score.content:.3f}", f"{score.style:.4f}", f"{score.tv:.4f}", f"{score.total:.3f}",
        f"{score.structure_kept:.2f}", f"{score.style_distance:.3f}", f"{score.grid:.1f}", f"{score.seconds:.3g}",
    ]  # fmt: skip


def _equals(report: "NetworkReport") -> tuple[str, str]:
    if report.gatys_equivalent is None:
        return f"> {report.evaluations[-1]} evaluations", f"> {report.speed_up:.0f}x"
    return f"{report.gatys_equivalent:.0f} evaluations", f"{report.speed_up:.0f}x"
