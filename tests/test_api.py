"""The public names of each package: there, typed, documented, imported late; and every docstring's example runs."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

import impasto.assets
import impasto.export
import impasto.realtime
import impasto.training
from impasto.realtime.cli import app

PACKAGES = (impasto.training, impasto.export, impasto.realtime, impasto.assets)
LAZY = (impasto.training, impasto.export, impasto.realtime)
HELP_SECONDS = 0.3
"""What the design promises; measured here as processor time, because other programs share this machine's clock."""


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)
def test_what_type_checkers_see_is_what_is_there(package: ModuleType) -> None:
    if package is impasto.training:
        pytest.importorskip("torch", reason="training needs torch")
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name: (f".{node.module}", alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(package.__all__) == dir(package)
    for name, (module, original) in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module, package.__name__), original), name


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)
def test_public_names_say_what_they_are(package: ModuleType) -> None:
    if package is impasto.training:
        pytest.importorskip("torch", reason="training needs torch")
    for name in package.__all__:
        thing = getattr(package, name)
        if name != "Picture":  # an array type, documented where it is defined
            assert thing.__doc__, name
            assert not thing.__doc__.startswith(f"{name}("), f"{name} has only what dataclasses write by themselves"
        assert not isinstance(thing, ModuleType), f"{name} is a module that hides a function of its name"
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_module_can_be_imported(package: ModuleType) -> None:
    """Also with the oldest libraries that pyproject.toml allows: names at the top of modules came with them."""
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        try:
            importlib.import_module(info.name)
        except ModuleNotFoundError as exc:
            if str(exc.name).partition(".")[0] in ("impasto", "av", "cv2", "numpy", "onnx", "rich", "typer"):
                raise


def test_importing_a_package_imports_nothing_heavy() -> None:
    names = ", ".join(package.__name__ for package in PACKAGES)
    heavy = "{'numpy', 'av', 'cv2', 'onnx', 'torch', 'openvino', 'onnxruntime', 'rich', 'typer'}"
    script = f"import sys, {names}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="processor time of children is not known")
def test_help_answers_at_once() -> None:
    import resource

    command = [sys.executable, "-c", "from impasto.realtime.cli import stylize_video; stylize_video()", "--help"]
    spent = []
    for _ in range(3):  # the first fills the disk's cache
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < HELP_SECONDS


def test_usage_lines_have_brackets_and_dots_once() -> None:
    def arguments(command: Any) -> Iterator[Any]:
        yield from (one for one in command.params if one.param_type_name == "argument")
        for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
            yield from arguments(command.get_command(None, name))

    named = [one.metavar for one in arguments(typer.main.get_command(app)) if one.metavar]
    assert "IN" in named
    assert not [metavar for metavar in named if set("[.") & set(metavar)]  # typer adds them


def modules_with_examples() -> list[str]:
    """Names of all modules of ours whose source holds a doctest."""
    found = []
    for package in PACKAGES:
        folder = Path(str(package.__file__)).parent
        names = [package.__name__, *(f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules([str(folder)]))]
        for name in names:
            path = folder / ("__init__.py" if name == package.__name__ else f"{name.rpartition('.')[2]}.py")
            if ">>> " in path.read_text(encoding="utf-8"):
                found.append(name)
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("impasto.training") and name != "impasto.training.lazy":
        pytest.importorskip("torch", reason="training needs torch")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
