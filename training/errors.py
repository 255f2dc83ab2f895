"""The root of Impasto's errors. It lives in the package that imports nothing of ours."""


class ImpastoError(Exception):
    """Something in the world is not as it must be; the message is one line that says what and the remedy."""


class TrainingError(ImpastoError):
    """A style cannot be learned from what was given: a picture, a folder, weights or a checkpoint is at fault."""
