"""Packages whose names are there at once and whose modules are imported only when a name is used.

`import impasto.realtime` must cost nothing: every command begins with it, and most need only a part of what is behind
it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) of a package.

    Args:
        package: its `__name__`.
        homes: public name to the module inside the package that has it, as ".frame", or ".train:train" where it has
            another name there.

    >>> find, names = lazy_names("impasto.training", {"NoStyle": ".errors:TrainingError"})
    >>> names(), find("NoStyle").__name__
    (['NoStyle'], 'TrainingError')
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        return getattr(importlib.import_module(module, package), attribute or name)

    return find, lambda: sorted(homes)
