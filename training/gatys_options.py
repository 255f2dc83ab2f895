"""Options that `impasto gatys`, `gatys sweep` and `gatys video` share, written once."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from . import cli_options as option
from .gatys_config import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    ColorDirection,
    ColorMode,
    ColorTransform,
    GatysConfig,
    Optimizer,
    Start,
    Statistics,
    parse_layers,
)

_DEFAULTS = GatysConfig()


@dataclass(frozen=True)
class PaintOptions:
    """As typed."""

    size: Annotated[int, typer.Option(help="Long side of the result, pixels.")] = _DEFAULTS.size
    min_size: Annotated[
        int | None, typer.Option(help=f"Long side of the first scale; default {_DEFAULTS.min_size} or --size.")
    ] = None
    iterations: Annotated[int, typer.Option(help="Evaluations of the losses at every scale.")] = _DEFAULTS.iterations
    optimizer: Annotated[Optimizer, typer.Option(help="lbfgs, or adam with a rate that falls to 0.")] = "lbfgs"
    learning_rate: Annotated[float | None, typer.Option(help="Of adam in grey levels (5), of lbfgs a factor (1).")] = (
        None
    )
    history: Annotated[int, typer.Option(help="Pairs of pictures that lbfgs keeps in memory.")] = _DEFAULTS.history
    start: Annotated[Start, typer.Option(help="Picture to begin with.")] = _DEFAULTS.start
    noise: Annotated[float, typer.Option(help="Share of noise in --start content+noise.")] = _DEFAULTS.noise
    content_weight: Annotated[float, typer.Option(help="How much the photograph counts; 0 paints texture alone.")] = (
        _DEFAULTS.content_weight
    )
    style_weight: Annotated[
        float | None, typer.Option(help="How much the painting counts; default 200, covariance 10; 0 repaints alone.")
    ] = None
    tv_weight: Annotated[float, typer.Option(help="Smoothness.")] = _DEFAULTS.tv_weight
    content_layers: Annotated[
        str, typer.Option(metavar="LAYER[=WEIGHT],...", help="Where the photograph is compared.")
    ] = ",".join(CONTENT_LAYERS)
    style_layers: Annotated[str, typer.Option(metavar="LAYER[=WEIGHT],...", help="Where the painting is compared.")] = (
        ",".join(STYLE_LAYERS)
    )
    statistics: Annotated[
        Statistics, typer.Option(help="What a style is: gram as in the paper, covariance with truer colours.")
    ] = _DEFAULTS.statistics
    style_scale: Annotated[float, typer.Option(help="Size of the marks: 2 is twice as large.")] = _DEFAULTS.style_scale
    blend: Annotated[
        str | None, typer.Option(metavar="W1,W2,...", help="Weights of several paintings; default equal.")
    ] = None
    color: Annotated[
        ColorMode,
        typer.Option(
            help="Whose colours: style: the painting's; content: the photograph's laid over the result; luminance: "
            "only luminance is painted; match-…: recolour one picture to the other beforehand."
        ),
    ] = _DEFAULTS.color
    color_transform: Annotated[ColorTransform, typer.Option(help="Of match-covariance.")] = _DEFAULTS.color_transform
    color_direction: Annotated[
        ColorDirection, typer.Option(help="Of match-…: which picture is recoloured to which.")
    ] = _DEFAULTS.color_direction
    seed: Annotated[int, typer.Option(help="Of the noise.")] = _DEFAULTS.seed
    pooling: Annotated[Literal["max", "average"], typer.Option(help="Of the loss network.")] = "max"
    loss_network: option.LossNetwork = "vgg19"
    loss_weights: option.LossWeights = None
    device: option.Device = "auto"
    threads: option.Threads = 0
    overwrite: option.Overwrite = False
    quiet: option.Quiet = False

    def config(self) -> GatysConfig:
        """The options that are the painting's own."""
        own = {f.name for f in fields(GatysConfig)} & {f.name for f in fields(self)}
        same = {name: getattr(self, name) for name in own}
        same["min_size"] = min(_DEFAULTS.min_size, self.size) if self.min_size is None else self.min_size
        same["content_layers"] = parse_layers(self.content_layers)
        same["style_layers"] = parse_layers(self.style_layers)
        return GatysConfig(**same)

    def weights(self, number: int) -> list[float]:
        """One weight per painting."""
        if self.blend is None:
            return [1.0] * number
        try:
            weights = [float(part) for part in self.blend.split(",")]
        except ValueError as exc:
            raise ValueError(f"--blend must be numbers with commas, got {self.blend!r}") from exc
        if len(weights) != number or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            raise ValueError(f"--blend must be {number} weights of 0 or more, one per painting, got {self.blend!r}")
        return weights


_F = TypeVar("_F", bound=Callable[..., Any])


def takes_paint_options(command: _F) -> _F:
    """Give a command's parameter `options: PaintOptions` to typer as one option per field."""
    hints = get_type_hints(PaintOptions, include_extras=True)
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(PaintOptions)
    ]

    def with_fields(*args: Any, **kwargs: Any) -> Any:
        options = PaintOptions(**{p.name: kwargs.pop(p.name) for p in shared})
        return command(*args, options=options, **kwargs)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    with_fields.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    with_fields.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
    with_fields.__name__, with_fields.__doc__ = command.__name__, command.__doc__
    return with_fields  # type: ignore[return-value]
