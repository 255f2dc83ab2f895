"""`impasto bench`: how fast this machine paints."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from ..export.sides import parse_sides
from .cli_common import Command, warnings_on_stderr
from .cli_plot import check_plot, write_plot

if TYPE_CHECKING:
    from .bench import BenchOptions, EndToEnd, Measurement, Peer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NAMED_SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920), "4k": (2160, 3840)}


@app.command(cls=Command)
def bench(
    styles: Annotated[list[str] | None, typer.Argument(help="Styles or .onnx files; default: one per tier.")] = None,
    size: Annotated[list[str], typer.Option(help="360p, 720p, 1080p, 4k or WIDTHxHEIGHT; several.")] = ["360p", "720p"],  # noqa: B006
    device: Annotated[list[str] | None, typer.Option(help="cpu, cuda …; several; default: all that work.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, bf16, fp16, int8; several.")] = None,
    threads: Annotated[list[int], typer.Option(help="Threads of processor engines; several; 0: automatic.")] = [0],  # noqa: B006
    in_flight: Annotated[list[int], typer.Option(help="Frames at once; several.")] = [1, 4],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="Time for each measurement.")] = 3.0,
    clip: Annotated[Path | None, typer.Option(help="Video to paint from file to file; default: the demo clip.")] = None,
    engine_only: Annotated[bool, typer.Option("--engine-only", help="Paint no video.")] = False,
    peer: Annotated[
        bool,
        typer.Option(
            "--peer",
            help="Also time Johnson's network in plain PyTorch (eager, fp32, random weights) at the same sizes, and "
            "say how many times as fast the engines are.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a picture of the results.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing picture.")] = False,
) -> None:
    """Measure engines alone, beside the machine's own peak of matrix products, and whole videos from file to file."""
    from ..assets import DEMO_CLIP
    from .bench import BenchOptions, check_peer, times_peer
    from .doctor import processor_name
    from .engine import parse_precision
    from .input_file import check_reopens
    from .source_file import VideoFile

    check_plot(plot, overwrite=overwrite)
    if peer:
        check_peer()
    options = BenchOptions(
        sizes=[NAMED_SIZES.get(text) or parse_sides(text, "--size", *NAMED_SIZES) for text in size],
        devices=[kind for kind in device or () if kind != "auto"],
        precisions=[p for text in precision or () if (p := parse_precision(text)) != "auto"],
        threads=threads,
        in_flight=in_flight,
        seconds=seconds,
    )
    film = None if engine_only else clip or DEMO_CLIP
    if film is not None:
        check_reopens(film)
        with VideoFile(film):
            pass  # said before the minutes of measuring
    results, whole, peers = _measure(_paths(styles), options, film, peer=peer, quiet=as_json)
    if as_json:
        rows = [
            asdict(result) | {"share_of_peak": result.share_of_peak, "times_peer": times_peer(result, peers)}
            for result in results
        ]
        report = {"machine": processor_name(), "engines": rows, "end_to_end": [asdict(video) for video in whole]}
        typer.echo(json.dumps(report | {"peers": [asdict(one) for one in peers]}, indent=2))
    else:
        _print(results, whole, peers)
    if plot is not None:
        _plot(results, whole, plot, processor_name())


def _measure(
    paths: list[Path], options: "BenchOptions", clip: Path | None, *, peer: bool, quiet: bool
) -> "tuple[list[Measurement], list[EndToEnd], list[Peer]]":
    """Engines alone, then the clip from file to file unless it is None, then what engines are compared with; says each
    figure as it comes.

    Raises:
        EngineError: there is nothing to measure.
    """
    from rich.console import Console

    from .bench import bench as measure
    from .bench import bench_end_to_end, bench_peers
    from .errors import EngineError

    err = Console(stderr=True, highlight=False, markup=False)

    def warn(line: str) -> None:
        err.print(f"warning: not measured: {line}", soft_wrap=True)

    skipped: list[str] = []
    results: list[Measurement] = []
    whole = []
    peers = []
    with err.status("") as status, TemporaryDirectory(prefix="impasto-") as folder:
        for result in measure(paths, options, on_progress=status.update, on_skipped=skipped.append):
            results.append(result)
            if not quiet:
                err.print(_line(result), soft_wrap=True)
        reasons = list(dict.fromkeys(skipped))
        if not results:
            if options.precisions:
                reasons.append(f"no other engine has {' or '.join(options.precisions)}")
            raise EngineError(f"nothing can be measured: {'; '.join(reasons)}")
        for line in reasons if options.devices else ():
            warn(line)
        if clip is not None:
            for video in bench_end_to_end(
                paths, clip, options, Path(folder), on_progress=status.update, on_skipped=warn
            ):
                whole.append(video)
                if not quiet:
                    err.print(f"{_place(video)}, file to file: {video.fps:.1f} fps", soft_wrap=True)
        with warnings_on_stderr():
            for one in bench_peers(results if peer else (), seconds=options.seconds, on_progress=status.update):
                peers.append(one)
                if not quiet:
                    err.print(f"{_peer_place(one)}: {one.median_ms:.1f} ms", soft_wrap=True)
    return results, whole, peers


def _paths(styles: list[str] | None) -> list[Path]:
    from ..assets import find_style
    from .cli_doctor import styles_to_try
    from .errors import ArtifactError

    paths = [Path(style) if style.endswith(".onnx") else find_style(style) for style in styles or ()]
    paths = paths or list(styles_to_try().values())
    if not paths:
        raise ArtifactError("a style must be installed or given: impasto bench FILE.onnx")
    return paths


def _place(result: "Measurement | EndToEnd") -> str:
    words = [result.style, result.tier, result.engine, result.precision, f"{result.width}x{result.height}"]
    if result.threads:
        words.append(f"{result.threads} threads")
    return " ".join(words)


def _peer_place(peer: "Peer") -> str:
    threads = f" {peer.threads} threads" if peer.threads else ""
    return f"Johnson's network, random weights, plain PyTorch on {peer.device} fp32 {peer.width}x{peer.height}{threads}"


def _label(result: "Measurement") -> str:
    return f"{_place(result)} x{result.in_flight}"


def _line(result: "Measurement") -> str:
    return f"{_place(result)}: {result.median_ms:.1f} ms, {result.fps:.1f} fps with {result.in_flight} in flight"


def _print(results: "list[Measurement]", whole: "list[EndToEnd]", peers: "list[Peer]") -> None:
    from rich.console import Console
    from rich.table import Table

    from .bench import times_peer

    table = Table("engine alone", "median ms", "p95 ms", "fps", "TFLOP/s", "of peak", box=None)
    if peers:
        table.add_column("× PyTorch")
    for result in results:
        share, ratio = result.share_of_peak, times_peer(result, peers)
        table.add_row(
            _label(result),
            f"{result.median_ms:.1f}",
            f"{result.p95_ms:.1f}",
            f"{result.fps:.1f}",
            f"{result.tflops:.3f}",
            "" if share is None else f"{share:.0%} of {result.peak_tflops:.3f}",
            *(["" if ratio is None else f"{ratio:.1f}"] if peers else []),
        )
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 120)  # a broken row cannot be read at all
    console.print(table)
    for peer in peers:
        console.print(f"PyTorch: {_peer_place(peer)}, {peer.median_ms:.1f} ms, {peer.fps:.2f} fps", soft_wrap=True)
    if not whole:
        return
    table = Table("file to file", "fps", "decode ms", "stylize ms", "encode ms", box=None)
    for video in whole:
        times = (video.decode_ms, video.stylize_ms, video.encode_ms)
        table.add_row(_place(video), f"{video.fps:.1f}", *(f"{taken:.1f}" for taken in times))
    console.print()
    console.print(table)


def _plot(results: "list[Measurement]", whole: "list[EndToEnd]", target: Path, machine: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.4 + 0.32 * (len(results) + len(whole))), layout="constrained")
    axes = figure.add_subplot()
    alone = {_label(result): result.fps for result in results}
    videos = {f"{_place(video)}, file to file": video.fps for video in whole}
    for name, rows, color in (("engine alone", alone, "#3b6ea5"), ("file to file", videos, "#c8842f")):
        if rows:
            bars = axes.barh(list(rows), list(rows.values()), color=color, label=name)
            axes.bar_label(bars, [f"{fps:.1f}" for fps in rows.values()], padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("frames a second")
    axes.set_title(machine)
    axes.spines[["top", "right"]].set_visible(False)
    if alone and videos:
        axes.legend(frameon=False)
    write_plot(figure, target)
