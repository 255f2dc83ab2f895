"""`impasto stability`: how much a painted film flickers, beside the film itself. Imports what is heavy once it runs."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_common import Command
from .cli_plot import check_plot, write_plot
from .errors import SinkError, SourceError

if TYPE_CHECKING:
    from .engine import Engine
    from .frame import Frame, Picture
    from .source import Source
    from .stability import ClipResult, Contestant, TrueMotion

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

INPUT = "input"
NAIVE_KEPT = 0.8
"""Share of the last picture in the naive average: flickers about as little as `--smooth 0.9`, without its masks."""


@app.command(cls=Command)
def stability(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP", help="Videos, or folders of numbered pictures.")],
    style: Annotated[list[str], typer.Option("--style", "-s", help="Style or artifact; may be repeated.")] = ["mosaic"],  # noqa: B006 (typer)
    tier: Annotated[str | None, typer.Option(help="fast or quality.")] = None,
    smooth: Annotated[float, typer.Option(min=0.0, max=1.0, help="Also smoothed by so much; 0 leaves it out.")] = 0.5,
    naive: Annotated[bool, typer.Option("--naive", help="Also by a plain average over time, which ghosts.")] = False,
    carried: Annotated[
        bool, typer.Option("--carried", help="Also with normalisation statistics averaged over time, and frozen.")
    ] = False,
    frames: Annotated[int, typer.Option(min=2, help="Only the first so many of each clip.")] = 100,
    size: Annotated[str | None, typer.Option(help="Of videos: 720p, WxH or 0.5x.")] = None,
    pattern: Annotated[str, typer.Option(help="Which pictures of a folder are its frames, such as 'clean_*'.")] = "*",
    flow: Annotated[
        Path | None, typer.Option(help="Folder of ground truth for one folder of pictures: flow_NNNN.npz or .flo.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the errors over time into this picture.")] = None,
    render: Annotated[Path | None, typer.Option(help="Write all of them side by side as a video; one clip.")] = None,
    device: Annotated[str, typer.Option(help="auto, or the device that must be used.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Every figure as JSON.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
) -> None:
    """Measure flicker: the warping error between frames, near and far, beside that of the input itself."""
    if render is not None and len(clips) != 1:
        raise ValueError(f"render must be of one clip, got {len(clips)}")
    if flow is not None and len(clips) != 1:
        raise ValueError(f"flow must be of one clip, got {len(clips)}")
    names = _row_names(style)
    check_plot(plot, overwrite=overwrite)
    if render is not None and render.exists() and not overwrite:
        raise SinkError(f"output must not exist yet, got {render}; --overwrite replaces it")
    for clip in clips:
        if not clip.exists():
            raise SourceError(f"input must exist, got {clip}")
    with ExitStack() as stack:
        styles = [
            _loaded(text, name, tier, device, precision, stack, carried=carried)
            for text, name in zip(style, names, strict=True)
        ]
        results = []
        for clip in clips:
            with _open(clip, size, pattern) as source:
                job = _ClipJob(clip, source, _contestants(styles, smooth, naive=naive), frames)
                results.append(job.run(_truth(flow, source), render, overwrite=overwrite))
                for line in _missing(results[-1], with_truth=flow is not None):
                    print(f"warning: {clip.name}: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps([_as_json(result) for result in results], indent=1))
    else:
        _print_tables(results)
    if plot is not None:
        _plot(results, plot)


@dataclass(frozen=True)
class _Loaded:
    """A style, with the engines that paint it."""

    name: str
    engine: "Engine"
    carriers: "Sequence[tuple[str, Engine]]" = ()
    """With normalisation statistics that are not the frame's own, by what they are."""


def _row_names(styles: Sequence[str]) -> list[str]:
    """As typed; of a file its stem, or its path where the stem would name two rows."""
    paths = {text: Path(text) for text in styles if text.endswith((".onnx", ".engine"))}
    short = [paths[text].stem if text in paths else text for text in styles]
    names = [
        str(paths[text]) if text in paths and [INPUT, *short].count(name) > 1 else name
        for text, name in zip(styles, short, strict=True)
    ]
    if len({INPUT, *names}) <= len(names):
        raise ValueError(f"style must be named once each and not {INPUT}, got {', '.join(styles)}")
    return names


def _loaded(
    style: str, name: str, tier: str | None, device: str, precision: str, stack: ExitStack, *, carried: bool
) -> _Loaded:
    """`stack` closes the engines."""
    from .engine_choice import load_engine
    from .video_engines import find_artifact

    path = find_artifact(style, tier)
    engine = load_engine(path, device=device, precision=precision)
    stack.callback(engine.close)
    carriers = _carrying(path, engine) if carried else []
    for _, carrier in carriers:
        stack.callback(carrier.close)
    return _Loaded(name, engine, carriers)


@dataclass(frozen=True)
class _ClipJob:
    clip: Path
    source: "Source"
    contestants: "Sequence[Contestant]"
    frames: int

    def run(self, truth: "Callable[[int], TrueMotion | None]", render: Path | None, *, overwrite: bool) -> "ClipResult":
        from .stability import measure

        painted = islice(iter(self.source), self.frames)
        if render is None:
            return measure(self.clip.name, painted, self.contestants, true_motion=truth)
        from .sink_file import VideoFileWriter

        with VideoFileWriter(render, _wide(self.source, len(self.contestants)), overwrite=overwrite) as writer:

            def show(frame: "Frame", pictures: "Mapping[str, Picture]") -> None:
                writer.write(_side_by_side(frame, pictures))

            return measure(self.clip.name, painted, self.contestants, true_motion=truth, on_frame=show)


@dataclass
class _Once:
    """A style that several contestants begin with: each frame is painted once."""

    paint: "Callable[[Frame], Picture]"
    _frame: "Frame | None" = None
    _painted: "list[Picture]" = field(default_factory=list)

    def __call__(self, frame: "Frame") -> "Picture":
        if frame is not self._frame:
            self._frame, self._painted = frame, [self.paint(frame)]
        return self._painted[0]


def _contestants(styles: Sequence[_Loaded], smooth: float, *, naive: bool) -> "list[Contestant]":
    from .stability import Contestant

    found = [Contestant(INPUT, lambda frame: frame.data)]
    for style in styles:
        name, once = style.name, _Once(_painter(style.engine))
        found.append(Contestant(name, once))
        if naive:
            found.append(Contestant(f"{name} + naive average", _naively(once), after=name))
        if smooth:
            found.append(Contestant(f"{name} + smooth {smooth:g}", _smoothly(once, smooth), after=name))
        found += [Contestant(f"{name} + {kind}", _painter(carrier)) for kind, carrier in style.carriers]
    return found


def _painter(engine: "Engine") -> "Callable[[Frame], Picture]":
    from .stylizer import Stylizer

    if hasattr(engine, "reset"):
        engine.reset()
    stylizer = Stylizer(engine)
    return lambda frame: stylizer(frame).data


def _smoothly(once: _Once, amount: float) -> "Callable[[Frame], Picture]":
    from .smoothing import Smoother

    smoother = Smoother(amount)
    return lambda frame: smoother(frame.data, once(frame))


def _naively(once: _Once) -> "Callable[[Frame], Picture]":
    from .stability import NaiveAverage

    average = NaiveAverage(NAIVE_KEPT)
    return lambda frame: average(once(frame))


def _carrying(path: Path, engine: "Engine") -> "list[tuple[str, Engine]]":
    """The style with statistics averaged over time, and with those of the first frame."""
    from ..export.artifact import load_artifact
    from .engine_carried import CarriedEngine
    from .engine_statistics import open_statistics

    artifact = load_artifact(path)
    return [
        (kind, CarriedEngine(open_statistics(artifact, engine.info), frozen=kind == "frozen"))
        for kind in ("carried", "frozen")
    ]


@contextmanager
def _open(clip: Path, size: str | None, pattern: str) -> "Iterator[Source]":
    from .source_file import VideoFile
    from .stability import PictureFolder

    if clip.is_dir():
        yield PictureFolder(clip, pattern)
        return
    with VideoFile(clip, size=size) as video:
        yield video


def _truth(folder: Path | None, source: "Source") -> "Callable[[int], TrueMotion | None]":
    from .stability import PictureFolder, true_motion_from

    if folder is None:
        return lambda number: None
    if not isinstance(source, PictureFolder):
        raise ValueError(f"flow must go with a folder of pictures, got {folder} with a video")
    return true_motion_from(folder, source.numbers)


def _missing(result: "ClipResult", *, with_truth: bool) -> "Iterator[str]":
    """Why columns of this clip are empty."""
    from .stability import FAR

    found = next(iter(result.contestants.values()))
    if not found.near:
        yield "no E: no pixels can be followed from frame to frame"
    if not found.far and result.longest_shot <= FAR:
        yield f"no E far: it takes {FAR + 1} frames without a cut, got {result.longest_shot}"
    elif not found.far:
        yield f"no E far: no pixels can be followed over {FAR} frames"
    if with_truth and not found.true:
        yield "no E true: there is no ground truth between these frames"


def _print_tables(results: "Sequence[ClipResult]") -> None:
    from rich.console import Console

    # A table in a file or a pipe must not wrap at the 80 columns that are assumed there.
    console = Console() if Console().is_terminal else Console(width=_WIDTH)
    for result in results:
        title = f"{result.clip}: {result.frames} frames, {result.cuts} cuts, {result.followed:.0%} of pixels followed"
        console.print(_table(title, {name: _figures(result, name) for name in result.contestants}))
    if len(results) > 1:
        means = {
            name: {key: _mean([_figures(result, name)[key] for result in results]) for key in _COLUMNS}
            for name in results[0].contestants
        }
        console.print(_table(f"mean of {len(results)} clips", means))
    console.print(_LEGEND, highlight=False)


_WIDTH = 110
_LEGEND = (
    "E: warping error between neighbouring frames; far: over 10 frames; true: by ground-truth motion. var Y:\n"
    "variance of the mean luminance, pulse: its change from frame to frame, of 255, both within shots. ms: mean\n"
    "per frame after a warm-up of 2, nothing side by side."
)


_COLUMNS = {
    "error": "E ×10⁻³",
    "far": "E far",
    "true": "E true",
    "variance": "var Y",
    "pulse": "pulse",
    "cost": "ms",
}


def _figures(result: "ClipResult", name: str) -> dict[str, float]:
    from .stability import mean_error

    found = result.contestants[name]
    return {
        "error": mean_error(found.near) * 1e3,
        "far": mean_error(found.far) * 1e3,
        "true": mean_error(found.true) * 1e3,
        "variance": found.luminance_variance,
        "pulse": found.pulse,
        "cost": found.cost_ms,
    }


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Any:
    from rich.table import Table

    used = [key for key in _COLUMNS if any(not math.isnan(row[key]) for row in rows.values())]
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for key in used:
        table.add_column(_COLUMNS[key], justify="right")
    table.add_column("× input", justify="right")
    table.add_column("× plain", justify="right")
    for name, row in rows.items():
        plain = rows[max((other for other in rows if name.startswith(f"{other} + ")), key=len, default=name)]
        cells = [f"{row[key]:.1f}" if key == "cost" else f"{row[key]:.3f}" for key in used]
        against = [
            _ratio(row["error"], rows[INPUT]["error"]),
            "" if row is plain else _ratio(row["error"], plain["error"]),
        ]
        table.add_row(name, *cells, *against)
    return table


def _ratio(a: float, b: float) -> str:
    return f"{a / b:.2f}" if b and not math.isnan(a / b) else "-"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _as_json(result: "ClipResult") -> dict[str, Any]:
    return {
        "clip": result.clip,
        "frames": result.frames,
        "cuts": result.cuts,
        "followed": result.followed,
        "contestants": {
            name: {
                **{key: None if math.isnan(value) else value for key, value in _figures(result, name).items()},
                "over_time": [[pair.seconds, pair.error] for pair in found.near],
            }
            for name, found in result.contestants.items()
        },
    }


def _plot(results: "Sequence[ClipResult]", target: Path) -> None:
    from matplotlib.figure import Figure

    names = len(results[0].contestants)
    figure = Figure(figsize=(12, max(3.2 * len(results), 0.5 + 0.19 * names)), layout="constrained")
    axes = figure.subplots(len(results), 1, squeeze=False)
    for axis, result in zip(axes[:, 0], results, strict=True):
        for name, found in result.contestants.items():
            style = {"color": "0.5", "linestyle": "--"} if name == INPUT else {}
            axis.plot([p.seconds for p in found.near], [p.error * 1e3 for p in found.near], label=name, lw=1.2, **style)
        axis.set(title=result.clip, xlabel="seconds", ylabel="E × 10⁻³", yscale="log")
    # One beside all plots: the curves fill theirs.
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    write_plot(figure, target)


def _wide(source: "Source", columns: int) -> Any:
    from dataclasses import replace

    return replace(source.info, width=source.info.width * columns, num_frames=None)


def _side_by_side(frame: "Frame", pictures: "Mapping[str, Picture]") -> "Frame":
    """All pictures in a row, each with its name."""
    import cv2
    import numpy as np

    from .frame import Frame

    columns = []
    for name, picture in pictures.items():
        labelled = picture.copy()
        scale = max(0.4, picture.shape[0] / 900)
        at = (round(12 * scale), round(30 * scale))
        for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(labelled, name, at, cv2.FONT_HERSHEY_SIMPLEX, scale, color, round(thickness * scale + 0.5), 16)
        columns.append(labelled)
    return Frame(np.ascontiguousarray(np.hstack(columns)), frame.pts, frame.duration)
