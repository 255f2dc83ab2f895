"""Sizes as users write them. Light to import."""

import re


def parse_sides(text: str, option: str, *others: str) -> tuple[int, int]:
    """(height, width) in pixels, at least 1, of "1280x720".

    Args:
        option: what it was given for, as the error is to call it.
        others: what else would have been taken there.

    Raises:
        ValueError: it is none.

    >>> parse_sides("1280x720", "--best")
    (720, 1280)
    >>> parse_sides("720", "--size", "720p", "0.5x")
    Traceback (most recent call last):
        ...
    ValueError: --size must be WIDTHxHEIGHT, 720p or 0.5x, got '720'
    """
    match = re.fullmatch(r"0*([1-9]\d{0,8})[x×]0*([1-9]\d{0,8})", text)
    if match is None:
        *most, last = "WIDTHxHEIGHT", *others
        forms = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{option} must be {forms}, got {text[:50]!r}")
    return int(match[2]), int(match[1])
