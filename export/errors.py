"""Errors of frozen styles."""

from ..training.errors import ImpastoError

__all__ = ["ArtifactError", "ImpastoError"]


class ArtifactError(ImpastoError):
    """An artifact or style is missing, damaged, unsafe or does not keep the contract."""
