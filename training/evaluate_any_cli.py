"""What `impasto evaluate` shows of networks for any painting: a table, a JSON file, a contact sheet."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import TrainingError

if TYPE_CHECKING:
    from .evaluate import Score
    from .evaluate_any import AnyReport


def write_report(report: "AnyReport", *, sheet: Path | None, output: Path | None, as_json: bool) -> None:
    """Write what was asked for and print the rest."""
    figures = json.dumps(report.to_json(), indent=2)
    if output:
        part = output.with_name(f".{output.name}.part")
        try:
            part.write_text(figures + "\n", encoding="utf-8")
            part.replace(output)
        except OSError as exc:
            raise TrainingError(f"cannot write {output}: {exc.strerror or exc}") from exc
    if sheet:
        _write_sheet(report, sheet)
    if as_json:
        print(figures)
    else:
        _print_table(report)


def _write_sheet(report: "AnyReport", path: Path) -> None:
    from .sheets import contact_sheet, write_picture

    rows = []
    for pair in report.pairs:
        row = [(pair.photo, pair.pictures["photo"]), (pair.painting, pair.pictures["painting"])]
        row += [
            (f"{name}: structure {score.structure_kept:.2f}, style {score.style:.3f}", pair.pictures[name])
            for name, score in pair.networks.items()
        ]
        rows.append([*row, (f"Gatys, {report.evaluations[-1]} evaluations", pair.pictures["gatys"])])
    write_picture(path, contact_sheet(rows))


def _print_table(report: "AnyReport") -> None:
    from rich.console import Console
    from rich.table import Table

    settings = report.settings
    title = (
        f"medians over {len(report.pairs)} pairs; total = {settings.content_weight:g} content + "
        f"{settings.style_weight:.3g} style + {settings.tv_weight:g} tv"
    )
    table = Table(
        "picture by", "content", "style", "statistics", "total", "structure", "distance", "seconds", "equals",
        box=None, pad_edge=False, title=title,
    )  # fmt: skip
    for contender in report.contenders:
        equal = report.gatys_equivalent(contender.name)
        said = f"{equal:.0f} evaluations" if equal is not None else f"> {report.evaluations[-1]} evaluations"
        name = f"{contender.name}, {contender.engine}"
        table.add_row(name, *_cells(report.network(contender.name), report.statistics(contender.name)), said)
    for count in report.evaluations:
        last = report.statistics("gatys") if count == report.evaluations[-1] else None
        table.add_row(f"Gatys, {count} evaluations", *_cells(report.gatys(count), last), "")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _cells(score: "Score", statistics: float | None) -> list[str]:
    return [
        f"{score.content:.3f}", f"{score.style:.4f}", "-" if statistics is None else f"{statistics:.4f}",
        f"{score.total:.3f}", f"{score.structure_kept:.2f}", f"{score.style_distance:.3f}", f"{score.seconds:.3g}",
    ]  # fmt: skip
