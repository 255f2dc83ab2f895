"""Freeze a style: checkpoint to ONNX artifact to engine, each proven equal to its source.

Reading an artifact needs neither torch nor an engine:

>>> from impasto.assets import find_style
>>> from impasto.export import load_artifact
>>> artifact = load_artifact(find_style("mosaic"))
>>> artifact.metadata.style.artist, artifact.metadata.stride
('Robert Delaunay', 4)

Whatever is wrong with a file is one line, before any engine sees it:

>>> from impasto.assets import DEMO_CLIP
>>> load_artifact(DEMO_CLIP)
Traceback (most recent call last):
    ...
impasto.export.errors.ArtifactError: ...demo.mp4 must be a whole Impasto artifact, but its closing sum is missing

The guide, with the format, is README.md in this package's folder.
"""

from typing import TYPE_CHECKING

from ..training.lazy import lazy_names

if TYPE_CHECKING:
    from .artifact import Artifact, Metadata, Parity, StyleOrigin, load_artifact, save_artifact
    from .errors import ArtifactError, ImpastoError
    from .parity import Candidate, compare
    from .pictures import clip_frames, load_photographs
    from .to_onnx import export_onnx
    from .to_tensorrt import ShapeRange, export_tensorrt

__all__ = [
    "Artifact",
    "ArtifactError",
    "Candidate",
    "ImpastoError",
    "Metadata",
    "Parity",
    "ShapeRange",
    "StyleOrigin",
    "clip_frames",
    "compare",
    "export_onnx",
    "export_tensorrt",
    "load_artifact",
    "load_photographs",
    "save_artifact",
]

if not TYPE_CHECKING:  # with a `__getattr__`, checkers would let any name pass
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Artifact": ".artifact",
            "ArtifactError": ".errors",
            "Candidate": ".parity",
            "ImpastoError": ".errors",
            "Metadata": ".artifact",
            "Parity": ".artifact",
            "ShapeRange": ".to_tensorrt",
            "StyleOrigin": ".artifact",
            "clip_frames": ".pictures",
            "compare": ".parity",
            "export_onnx": ".to_onnx",
            "export_tensorrt": ".to_tensorrt",
            "load_artifact": ".artifact",
            "load_photographs": ".pictures",
            "save_artifact": ".artifact",
        },
    )
