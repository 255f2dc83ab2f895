"""What `impasto evaluate` shows: a table, a JSON file, a contact sheet."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainingError
from .whole_file import whole_file

if TYPE_CHECKING:
    from rich.table import Table

    from .data import Picture
    from .evaluate import NetworkReport, Score
    from .evaluate_any import AnyReport

_PHOTOS_ON_SHEET = 4
_BEGINNINGS = {"content": "the photograph", "noise": "white noise"}


@dataclass(frozen=True)
class Wanted:
    """What to write beside the table."""

    sheet: Path | None
    figures: Path | None
    as_json: bool
    """Figures on standard output instead of the table."""

    def check(self, *, overwrite: bool, originals: "Iterable[Path]" = ()) -> None:
        """Refuse what could not be written, and to replace one of the originals, before hours of work."""
        from .sheets import check_no_original, check_target

        if self.sheet:
            check_target(self.sheet, overwrite=overwrite)
            check_no_original(self.sheet, originals)
            if self.figures and self.sheet.absolute() == self.figures.absolute():
                raise ValueError(f"--sheet and --output must be two files, got {self.sheet} twice")
        if self.figures and self.figures.exists() and not overwrite:
            raise TrainingError(f"{self.figures} must not exist yet; pass --overwrite to replace it")
        if self.figures and not self.figures.parent.is_dir():
            raise TrainingError(f"{self.figures.parent} must be a folder")


def show_reports(reports: "Sequence[NetworkReport]", wanted: Wanted) -> None:
    """Of styles: write what was asked for and print the rest."""
    _write(wanted, [report.to_json() for report in reports], list(_sheet_rows(reports)))
    if not wanted.as_json:
        _print_table(reports)


def show_any(report: "AnyReport", wanted: Wanted) -> None:
    """Of networks for any painting."""
    _write(wanted, report.to_json(), list(_any_rows(report)))
    if not wanted.as_json:
        _print_any_table(report)


def _write(wanted: Wanted, values: Any, rows: "Sequence[Sequence[tuple[str, Picture | None]]]") -> None:
    figures = json.dumps(values, indent=2)
    if wanted.figures:
        try:
            with whole_file(wanted.figures) as part:
                part.write_text(figures + "\n", encoding="utf-8")
        except OSError as exc:
            raise TrainingError(f"cannot write {wanted.figures}: {exc.strerror or exc}") from exc
    if wanted.sheet:
        from .sheets import contact_sheet, write_picture

        write_picture(wanted.sheet, contact_sheet(rows))
    if wanted.as_json:
        print(figures)


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
    from rich.table import Table

    title = f"medians over {len(reports[0].photos)} photographs; Gatys begins with {_BEGINNINGS[reports[0].start]}"
    table = Table(
        "style", "picture by", "content", "style", "tv", "total", "structure", "distance", "grid", "seconds", "equals",
        "speed-up", box=None, pad_edge=False, title=title,
    )  # fmt: skip
    for report in reports:
        name = f"{report.subject.name} ({report.subject.tier})"
        table.add_row(name, report.subject.engine, *_cells(report.network), *_equals(report))
        for count, score in report.gatys.items():
            table.add_row("", f"Gatys, {count}", *_cells(score), "", "")
    _print(table)


def _cells(score: "Score") -> list[str]:
    return [
        f"{score.content:.3f}", f"{score.style:.4f}", f"{score.tv:.4f}", f"{score.total:.3f}",
        f"{score.structure_kept:.2f}", f"{score.style_distance:.3f}", f"{score.grid:.1f}", f"{score.seconds:.3g}",
    ]  # fmt: skip


def _equals(report: "NetworkReport") -> tuple[str, str]:
    if report.gatys_equivalent is None:
        return f"> {report.evaluations[-1]} evaluations", f"> {report.speed_up:.0f}x"
    return f"{report.gatys_equivalent:.0f} evaluations", f"{report.speed_up:.0f}x"


def _any_rows(report: "AnyReport") -> "Iterator[list[tuple[str, Picture | None]]]":
    """For each pair: photograph, painting, each network, Gatys."""
    for pair in report.pairs:
        networks = [
            (f"{name}: structure {score.structure_kept:.2f}, style {score.style:.3f}", pair.pictures[name])
            for name, score in pair.networks.items()
        ]
        gatys = (f"Gatys, {report.evaluations[-1]} evaluations", pair.pictures["gatys"])
        yield [(pair.photo, pair.pictures["photo"]), (pair.painting, pair.pictures["painting"]), *networks, gatys]


def _print_any_table(report: "AnyReport") -> None:
    from rich.table import Table

    settings = report.settings
    title = (
        f"medians over {len(report.pairs)} pairs; total = {settings.content_weight:g} content + "
        f"{settings.style_weight:.3g} style + {settings.tv_weight:g} tv; "
        f"Gatys begins with {_BEGINNINGS[report.start]}"
    )
    table = Table(
        "picture by", "content", "style", "statistics", "total", "structure", "distance", "seconds", "equals",
        box=None, pad_edge=False, title=title,
    )  # fmt: skip
    for contender in report.contenders:
        equal = report.gatys_equivalent(contender.name)
        said = f"{equal:.0f} evaluations" if equal is not None else f"> {report.evaluations[-1]} evaluations"
        name = f"{contender.name}, {contender.engine}"
        table.add_row(name, *_any_cells(report.network(contender.name), report.statistics(contender.name)), said)
    for count in report.evaluations:
        last = report.statistics("gatys") if count == report.evaluations[-1] else None
        table.add_row(f"Gatys, {count} evaluations", *_any_cells(report.gatys(count), last), "")
    _print(table)


def _any_cells(score: "Score", statistics: float | None) -> list[str]:
    return [
        f"{score.content:.3f}", f"{score.style:.4f}", "-" if statistics is None else f"{statistics:.4f}",
        f"{score.total:.3f}", f"{score.structure_kept:.2f}", f"{score.style_distance:.3f}", f"{score.seconds:.3g}",
    ]  # fmt: skip


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(table)
