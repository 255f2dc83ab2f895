"""Write `any.styles.npz`: the style vectors of trained styles, so that they mix with paintings in one network.

    python -m impasto.realtime.known_styles any.stylizer.onnx mosaic=mosaic.jpg udnie=udnie.jpg

The encoder's sum goes along, since only its own stylizer understands what it says.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..export.adain_to_onnx import encoder_path
from ..training.whole_file import whole_file
from .paintings import AnyPainting, StyleBook, known_vectors_path


def write_known_styles(stylizer: Path, paintings: Mapping[str, Path]) -> Path:
    """Encode a painting for each style's name and write the file beside the stylizer; returns its path."""
    book = StyleBook(AnyPainting.of(stylizer, encoder_path(stylizer)))
    arrays = {name: book.vector(str(path)).astype(np.float16) for name, path in paintings.items()}
    path = known_vectors_path(stylizer)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, encoder=np.array(book.networks.encoder.sha256), **arrays)  # type: ignore[arg-type]
    return path


def main() -> None:
    stylizer, *pairs = sys.argv[1:]
    named = (pair.partition("=") for pair in pairs)
    print(write_known_styles(Path(stylizer), {name: Path(path) for name, _, path in named}))


if __name__ == "__main__":
    main()
