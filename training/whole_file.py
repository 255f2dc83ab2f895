"""Files that are there whole or not at all. Light to import, and for every package."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to; the file takes the place of `path` when the block ends without an error.

    With one, whatever it is, `path` stays as it was and nothing is left beside it. The name is another each time, so
    that two runs do not meet, and ends in `.part`, so that no search for pictures or styles finds half a file: a
    library that goes by the ending must be told the format.

    Nothing is made here, so that the file gets the permissions that the umask, or who writes it, gives it.

    Raises:
        OSError: the file cannot take its place.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):  # gone to its place, never begun, or beside a file in the folder's place
            part.unlink()


def discard_parts(folder: Path) -> None:
    """Remove what programs left in a folder that were killed while they wrote; nobody may be writing there now."""
    for path in folder.iterdir():
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.part", path.name):
            with suppress(OSError):
                path.unlink()
