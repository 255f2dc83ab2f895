"""Errors of running a style. Each class owns one exit code of the command line."""

from ..export.errors import ArtifactError, ImpastoError

__all__ = ["ArtifactError", "EngineError", "ImpastoError", "SinkError", "SourceError"]


class SourceError(ImpastoError):
    """A video, stream or camera cannot be opened or read."""


class EngineError(ImpastoError):
    """No engine, or not the one that was named, can run the style on this machine."""


class SinkError(ImpastoError):
    """An output cannot be opened or written."""
