"""`impasto evaluate`, with this machine's engines to run the artifacts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..training.evaluate_cli import OpenedStyle, evaluate_app, painting_title

if TYPE_CHECKING:
    from .engine import Engine
    from .frame import Picture


def _open_artifacts(text: str, device: str) -> Sequence[OpenedStyle]:
    """A file's style, or an installed style in all of its tiers."""
    from ..assets import find_style, installed_styles

    if text == "any" or text.endswith(".stylizer.onnx"):
        return [_open_any(None if text == "any" else Path(text), device)]
    if Path(text).suffix == ".onnx":
        return [_open(Path(text), device)]
    tiers = installed_styles().get(text)
    return [_open(path, device) for path in tiers.values()] if tiers else [_open(find_style(text), device)]


def _open(path: Path, device: str) -> OpenedStyle:
    from ..export.artifact import load_artifact
    from .engine_choice import load_engine

    artifact = load_artifact(path)
    engine = load_engine(artifact, device=device)
    known = artifact.metadata
    return OpenedStyle(
        known.name, known.tier, known.style.sha256, known.training, _painter(engine), str(engine.info), engine.close,
        painting=painting_title(known.style.title, known.style.artist), folder=path.parent,
    )  # fmt: skip


def _painter(engine: "Engine") -> "Callable[[Picture], Picture]":
    from fractions import Fraction

    from .frame import Frame
    from .stylizer import Stylizer

    stylizer = Stylizer(engine)
    return lambda picture: stylizer(Frame(picture, Fraction(0))).data


def _open_any(path: Path | None, device: str) -> OpenedStyle:
    """The networks that ship, or others by the stylizer's file: each painting folded, as videos are painted."""
    import numpy as np

    from ..export.adain_to_onnx import encoder_path
    from .engine_choice import load_engine, run_once
    from .paintings import AnyPainting, StyleBook, prepared

    networks = AnyPainting.installed() if path is None else AnyPainting.of(path, encoder_path(path))
    book = StyleBook(networks)
    probe = load_engine(networks.stylizer, device=device)
    info = str(probe.info)
    probe.close()

    def like(painting: "Picture") -> "Callable[[Picture], Picture]":
        seen = prepared(painting, networks.side)
        vector = run_once(networks.encoder, {"frame": seen[np.newaxis]})["style"][0]
        return _painter(load_engine(book.style(vector, name="evaluated"), device=device))

    known = networks.stylizer.metadata
    nothing = np.full((64, 64, 3), 128, np.uint8)
    return OpenedStyle(known.name, known.tier, "", known.training, like(nothing), info, like=like)


app = evaluate_app(_open_artifacts)
