"""The choice of engine is made once, kept while nothing changes, and the first style loads ahead."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from impasto.realtime import live_engine
from impasto.realtime.live_engine import FirstStyle, LiveEngines

from .live_helpers import FakeEngine, wait_until


@pytest.fixture
def precisions() -> list[str]:
    """The precision that `load_engine` was asked for, each time."""
    return []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precisions: list[str]) -> list[dict[str, object]]:
    """What `load_engine` was asked for, each time."""
    calls: list[dict[str, object]] = []

    def load_engine(artifact: object, **how: object) -> FakeEngine:
        calls.append({k: v for k, v in how.items() if k in ("device", "library")})
        precisions.append(str(how["precision"]))
        engine = FakeEngine()
        engine.info = SimpleNamespace(name="openvino", device="CPU", precision="bf16")
        return engine

    monkeypatch.setattr(live_engine, "load_engine", load_engine)
    monkeypatch.setattr(live_engine, "has_int8", lambda artifact: artifact is not None and artifact.int8)
    monkeypatch.setenv("IMPASTO_CONFIG", str(tmp_path))
    return calls


def engines(device: str = "auto") -> LiveEngines:
    return LiveEngines(device=device, precision="auto", on_choice=lambda line: None)


def test_the_comparison_is_made_once(asked: list[dict[str, object]], tmp_path: Path) -> None:
    first = engines()
    first.load(None)
    first.load(None)
    engines().load(None)
    chosen = {"device": "cpu", "library": "openvino"}
    assert asked == [{"device": "auto"}, chosen, chosen]


def test_a_change_of_this_machine_brings_it_back(asked: list[dict[str, object]], tmp_path: Path) -> None:
    engines().load(None)
    record = json.loads((tmp_path / "engine.json").read_text())
    record["circumstances"]["openvino"] = "1999.1"
    (tmp_path / "engine.json").write_text(json.dumps(record))
    engines().load(None)
    for text in ("{", "[]", '{"library": "/evil"}', ""):
        (tmp_path / "engine.json").write_text(text)
        engines().load(None)
    assert asked == [{"device": "auto"}] * 6


def test_a_named_device_is_always_that_device(asked: list[dict[str, object]]) -> None:
    engines().load(None)
    engines("cuda").load(None)
    assert asked[-1] == {"device": "cuda"}


def style(*, int8: bool = True, **psnr_db: float) -> SimpleNamespace:
    """An artifact with these measured parities."""
    parity = [SimpleNamespace(precision=name, psnr_db=value) for name, value in psnr_db.items()]
    return SimpleNamespace(int8=int8, metadata=SimpleNamespace(parity=parity))


def test_a_later_style_is_painted_in_the_precision_of_the_first(
    asked: list[dict[str, object]], precisions: list[str]
) -> None:
    found = engines()
    found.load(style(int8=False))  # nothing was compared
    found.load(style(bf16=20.0))  # its bf16 was no choice
    for _ in range(2):
        found.load(style(bf16=55.0))
    found.load(style(bf16=20.0))
    found.load(style(int8=False))
    assert precisions == ["auto", "auto", "auto", "bf16", "auto", "auto"]


def test_the_first_style_loads_ahead_and_is_put_away_if_nobody_asks() -> None:
    made: list[FakeEngine] = []

    def open_style(style: str, tier: str) -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    first = FirstStyle(open_style, "a", "fast")
    wait_until(lambda: made)  # before anybody asks
    assert first.open("a", "fast") is made[0]
    assert len(made) == 1
    assert first.open("a", "fast") is made[1]
    first.close()
    assert [engine.closed for engine in made] == [0, 0]
    unused = FirstStyle(open_style, "b", "fast")
    unused.close()
    assert made[-1].closed == 1
