"""`impasto evaluate`, with this machine's engines to run the artifacts."""

from collections.abc import Sequence
from pathlib import Path

from ..training.evaluate_cli import OpenedStyle, evaluate_app


def _open_artifacts(text: str, device: str) -> Sequence[OpenedStyle]:
    """A file's style, or an installed style in all of its tiers."""
    from ..assets import find_style, installed_styles

    if Path(text).suffix == ".onnx":
        return [_open(Path(text), device)]
    tiers = installed_styles().get(text)
    return [_open(path, device) for path in tiers.values()] if tiers else [_open(find_style(text), device)]


def _open(path: Path, device: str) -> OpenedStyle:
    from fractions import Fraction

    from ..export.artifact import load_artifact
    from .engine import load_engine
    from .frame import Frame, Picture
    from .stylizer import Stylizer

    artifact = load_artifact(path)
    engine = load_engine(artifact, device=device)
    stylizer = Stylizer(engine)

    def paint(picture: Picture) -> Picture:
        return stylizer(Frame(picture, Fraction(0))).data

    known = artifact.metadata
    return OpenedStyle(
        known.name, known.tier, known.style.sha256, known.training, paint, str(engine.info), engine.close
    )


app = evaluate_app(_open_artifacts)
