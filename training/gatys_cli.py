"""`impasto gatys`: paint one picture by optimisation, a grid of settings, a film's keyframes.

Imports torch only once a command runs. Reading videos and following motion live above this package, so the app is
made by `gatys_app` with a function that opens a film.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .cli_common import EXIT_INTERRUPTED, every_so_often, needs_train_extra
from .errors import TrainingError
from .gatys_config import GatysConfig
from .gatys_options import PaintOptions, takes_paint_options
from .interrupt import stop_on_interrupt

if TYPE_CHECKING:
    from .data import Picture
    from .gatys import Iterate, StyleImage
    from .gatys_video import Film
    from .loss_network import LossNetwork

_STOPPING = "stopping; Ctrl-C again drops the picture"

OpenFilm = Callable[[Path], "AbstractContextManager[Film]"]


class _PictureByDefault(TyperGroup):
    """`impasto gatys PHOTO PAINTING` is `impasto gatys picture PHOTO PAINTING`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["picture", *args]
        return super().parse_args(ctx, args)


def gatys_app(open_film: OpenFilm) -> typer.Typer:
    """The commands.

    Args:
        open_film: gives the frames of a video file, with cuts and motion.
    """
    app = typer.Typer(
        cls=_PictureByDefault,
        help="Paint one picture by optimisation, slowly and best: impasto gatys PHOTO PAINTING... -o out.png",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.command()(picture)
    app.command()(sweep)

    @app.command()
    @takes_paint_options
    def video(
        source: Annotated[Path, typer.Argument(metavar="IN", help="The film.")],
        styles: Annotated[list[Path], typer.Argument(metavar="PAINTING", help="What to paint like.")],
        output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write keyframes to.")],
        every: Annotated[str | None, typer.Option(metavar="2s", help="Seconds between keyframes.")] = None,
        at_cuts: Annotated[bool, typer.Option("--at-cuts", help="One keyframe at the beginning of each shot.")] = False,
        *,
        options: PaintOptions,
    ) -> None:
        """Paint keyframes of a film, each begun from the last one moved along with the picture, and their frames."""
        _video(open_film, source, styles, output, every=every, at_cuts=at_cuts, options=options)

    return app


@takes_paint_options
def picture(
    content: Annotated[Path, typer.Argument(metavar="PHOTO", help="The picture to repaint.")],
    styles: Annotated[list[Path], typer.Argument(metavar="PAINTING", help="What to paint like.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write: .png, .jpg, .webp or .tif.")],
    content_mask: Annotated[
        Path | None, typer.Option(help="Picture in flat colours, as large as the photograph: its regions.")
    ] = None,
    style_mask: Annotated[
        list[Path] | None, typer.Option(help="The same for the painting; once for each painting.")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Write the picture so far every so many iterations, beside the output.")
    ] = None,
    *,
    options: PaintOptions,
) -> None:
    """Repaint a photograph in the manner of one or several paintings."""
    from .sheets import check_no_original, check_target, write_picture

    config = options.config()
    check_target(output, overwrite=options.overwrite)
    check_no_original(output, [content, *styles])
    earlier = sorted(output.parent.glob(f"{escape(output.stem)}.scale*{output.suffix}")) if save_every else []
    if earlier and not options.overwrite:
        raise TrainingError(f"{earlier[0]} must not exist yet; pass --overwrite to replace it")
    network = _load_network(options)
    from .gatys import paint

    photo = _read(content)
    paintings = _style_images(styles, options, style_mask or [])
    mask = None if content_mask is None else _read(content_mask)
    _say_memory(photo, paintings, network, config, quiet=options.quiet)

    def save(iterate: "Iterate") -> None:
        if save_every and iterate.iteration % save_every == 0:
            name = f"{output.stem}.scale{iterate.scale + 1}.{iterate.iteration:05d}{output.suffix}"
            write_picture(output.with_name(name), iterate.picture())

    with stop_on_interrupt(_STOPPING) as stop, _display(quiet=options.quiet) as show:

        def on_iterate(iterate: "Iterate") -> None:
            save(iterate)
            show(iterate)

        painted = paint(
            photo, paintings, network, config, content_mask=mask, callback=on_iterate, should_stop=stop.is_set
        )
    write_picture(output, painted.picture)
    if not options.quiet:
        height, width = painted.picture.shape[:2]
        print(f"{output}: {width}x{height} in {painted.seconds:.0f} s, {_losses(painted.losses)}")
    if painted.stopped:
        print("stopped; the picture is the best so far", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)


@takes_paint_options
def sweep(
    content: Annotated[Path, typer.Argument(metavar="PHOTO", help="The picture to repaint.")],
    styles: Annotated[list[Path], typer.Argument(metavar="PAINTING", help="What to paint like.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The figure: .png, .pdf or .svg.")],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="OPTION=A,B,...",
            help="What to vary, once for columns and a second time for rows; layers within a set are joined by +.",
        ),
    ],
    *,
    options: PaintOptions,
) -> None:
    """Draw a labelled grid over one or two settings, with the curves of the losses beside it."""
    with needs_train_extra("painting"):
        from .gatys_sweep import check_figure, combinations, parse_axis, run_sweep
    from .sheets import check_no_original

    axes = [parse_axis(text) for text in vary]
    if len(axes) > 2 or len({axis.name for axis in axes}) < len(axes):
        raise ValueError(f"--vary must be given once or twice, for different options, got {', '.join(vary)}")
    check_figure(output, overwrite=options.overwrite)
    check_no_original(output, [content, *styles])
    config = options.config()
    combinations(config, axes)  # refuses values before the loss network is fetched
    network = _load_network(options)
    photo, paintings = _read(content), _style_images(styles, options, [])
    _say_memory(photo, paintings, network, config, quiet=options.quiet)
    with stop_on_interrupt(_STOPPING) as stop, _display(quiet=options.quiet) as show:
        done = run_sweep(
            photo, paintings, network, config, axes, output, callback=lambda _, it: show(it), should_stop=stop.is_set
        )
    if not options.quiet:
        print(f"{output}: {done} pictures" if done else f"{output} is not written: no picture is finished")
    if stop.is_set():
        raise typer.Exit(EXIT_INTERRUPTED)


def _video(
    open_film: OpenFilm,
    source: Path,
    styles: Sequence[Path],
    output: Path,
    *,
    every: str | None,
    at_cuts: bool,
    options: PaintOptions,
) -> None:
    if (every is None) != at_cuts:
        raise ValueError("keyframes must be asked for with either --every 2s or --at-cuts")
    interval = None if every is None else _seconds(every)
    config = options.config()
    if output.exists() and not options.overwrite and (not output.is_dir() or any(output.iterdir())):
        raise TrainingError(f"{output} must be an empty or a new folder; pass --overwrite to write into it")
    network = _load_network(options)
    from .gatys_video import paint_keyframes

    paintings = _style_images(styles, options, [])
    with stop_on_interrupt(_STOPPING) as stop, open_film(source) as film, _display(quiet=options.quiet) as show:
        count = paint_keyframes(
            film, paintings, network, config, output, every_seconds=interval, callback=show, should_stop=stop.is_set
        )
    if not options.quiet:
        quoted = shlex.quote(str(styles[0])), shlex.quote(str(output))
        print(f"{output}: {count} keyframes; next: impasto train {quoted[0]} --photos PHOTOS --keyframes {quoted[1]}")
    if stop.is_set():
        raise typer.Exit(EXIT_INTERRUPTED)


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--every must be seconds greater than 0, as 2s, got {text!r}")
    return seconds


def _load_network(options: PaintOptions) -> "LossNetwork":
    with needs_train_extra("painting"):
        import torch
    from .device import torch_device
    from .loss_network import load_loss_network

    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch_device(options.device)
    network = load_loss_network(
        options.loss_network, weights=options.loss_weights, max_pooling=options.pooling == "max"
    )
    return network.to(device)


def _read(path: Path) -> "Picture":
    from .data import read_picture

    return read_picture(path)


def _style_images(paths: Sequence[Path], options: PaintOptions, masks: Sequence[Path]) -> "list[StyleImage]":
    from .gatys import StyleImage

    if masks and len(masks) != len(paths):
        raise ValueError(f"--style-mask must be given once for each of the {len(paths)} paintings, got {len(masks)}")
    read_masks: list[Picture | None] = [_read(path) for path in masks]
    read_masks += [None] * (len(paths) - len(masks))
    return [
        StyleImage(_read(path), weight, mask)
        for path, weight, mask in zip(paths, options.weights(len(paths)), read_masks, strict=True)
    ]


def _say_memory(
    photo: "Picture", styles: "Sequence[StyleImage]", network: "LossNetwork", config: GatysConfig, *, quiet: bool
) -> None:
    from .gatys import check_memory, scale_sizes
    from .gatys_memory import available_memory

    scales = scale_sizes(photo.shape[0], photo.shape[1], config.min_size, config.size)
    needed = check_memory(scales[-1], styles, network, config)
    available = available_memory(network.device)
    if not quiet:
        sizes = ", ".join(f"{width}x{height}" for height, width in scales)
        free = "" if available is None else f" of {available / 2**30:.1f} GB free"
        print(f"{sizes}; needs about {needed / 2**30:.1f} GB{free}", file=sys.stderr)


@contextmanager
def _display(*, quiet: bool) -> "Iterator[Callable[[Iterate], None]]":
    """A bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        is_time = every_so_often()

        def print_line(iterate: "Iterate") -> None:
            if is_time():
                console.print(f"{_where(iterate)}, {iterate.iteration}/{iterate.iterations}, {_state(iterate)}")

        yield print_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", text="")
        yield lambda it: bar.update(
            task, description=_where(it), total=it.iterations, completed=it.iteration, text=_state(it)
        )


def _where(iterate: "Iterate") -> str:
    height, width = iterate.scales[iterate.scale]
    return f"scale {iterate.scale + 1}/{len(iterate.scales)} {width}x{height}"


def _state(iterate: "Iterate") -> str:
    minutes, seconds = divmod(round(iterate.seconds_left), 60)
    return f"{_losses(iterate.losses)}, {minutes}:{seconds:02d} left"


def _losses(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
