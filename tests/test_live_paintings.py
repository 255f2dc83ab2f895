"""Paintings live: one engine for all, fades and mixes in one pass, uploads that cannot hurt."""

import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from impasto.assets import any_painting
from impasto.export.artifact import load_artifact
from impasto.realtime.engine import EngineInfo, PictureEngine
from impasto.realtime.errors import ArtifactError, EngineError
from impasto.realtime.frame import Frame
from impasto.realtime.live_painter import LoadedStyle, Painter, SharedEngine
from impasto.realtime.live_paintings import PaintingEngine, PaintingEngines
from impasto.realtime.live_settings import LiveSettings, save_preset
from impasto.realtime.live_styles import StyleShelf
from impasto.realtime.paintings import AnyPainting, StyleBook

from .live_helpers import Clock, FakeEngine
from .test_paintings import bomb, drawn, encoded


class VectorRunner:
    """A graph that adds the style's first number to every value, and remembers what it was given."""

    info = EngineInfo("fake", "CPU", "fp32")

    def __init__(self) -> None:
        self.styles: list[np.ndarray] = []
        self.closed = 0

    def start(self, inputs: dict) -> SimpleNamespace:
        self.styles.append(inputs["style"])
        painted = np.clip(inputs["frame"] + inputs["style"][0, 0], 0, 255).astype(np.uint8)
        return SimpleNamespace(result=lambda: {"stylized": painted})

    def prepare(self, shapes: dict) -> None:
        self.shapes = shapes

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def runner() -> VectorRunner:
    return VectorRunner()


@pytest.fixture
def engines(runner: VectorRunner) -> PaintingEngines:
    inputs = {"style": np.zeros((1, 2), np.float32)}
    return PaintingEngines(lambda: PictureEngine(runner, stride=4, inputs=inputs))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which looks fade."""
    clock = Clock()
    monkeypatch.setattr("impasto.realtime.live_painter.time", clock)
    return clock


def vector(value: float) -> np.ndarray:
    return np.array([value, 0], np.float32)


def look(engines: PaintingEngines, name: str, value: float) -> LoadedStyle:
    return LoadedStyle(name, "fast", SharedEngine(engines.open(vector(value))))


GREY = Frame(np.full((96, 160, 3), 40, np.uint8), Fraction(0))


def painter(engines: PaintingEngines, **settings: object) -> Painter:
    others = {"b": vector(200.0)}
    result = Painter(size=(96, 160), settings=LiveSettings("a", **settings), vector_of=others.get)
    result.show(look(engines, "a", 100.0))
    return result


def test_all_paintings_share_an_engine_that_goes_with_the_last(engines: PaintingEngines, runner: VectorRunner) -> None:
    a, b = engines.open(vector(1)), engines.open(vector(2))
    assert isinstance(a, PaintingEngine)
    frames = GREY.data[np.newaxis]
    assert (a(frames)[0, 0, 0, 0], b(frames)[0, 0, 0, 0]) == (41, 42)
    a.close()
    a.close()
    assert runner.closed == 0
    b.close()
    assert runner.closed == 1
    with pytest.raises(EngineError, match="put away"):
        b(frames)


def test_strength_is_alpha(engines: PaintingEngines, runner: VectorRunner) -> None:
    assert painter(engines)(GREY).mean() == 140
    assert painter(engines, strength=0.25)(GREY).mean() == 65
    assert [float(style[0, 0]) for style in runner.styles] == [100.0, 25.0]
    assert painter(engines, strength=0.0)(GREY).mean() == 40
    assert len(runner.styles) == 2  # the camera's own picture costs nothing


def test_a_slider_mixes_two_paintings_in_one_pass(engines: PaintingEngines, runner: VectorRunner) -> None:
    for share, wanted in ((0.0, 140), (0.5, 190), (1.0, 240)):
        assert painter(engines, mix_with="b", mix=share)(GREY).mean() == wanted
    assert len(runner.styles) == 3
    assert painter(engines, mix_with="unknown", mix=1.0)(GREY).mean() == 140


def test_paintings_fade_over_in_one_pass(engines: PaintingEngines, runner: VectorRunner, clock: Clock) -> None:
    fading = painter(engines, crossfade_seconds=0.3)
    fading(GREY)
    fading.show(look(engines, "c", 200.0))
    means = []
    for _ in range(14):
        means.append(fading(GREY).mean())
        clock.now += 0.03
    assert means[0] < 150
    assert means[-1] == 240
    assert (np.diff(means) >= 0).all()
    assert len({round(mean) for mean in means}) > 4
    assert len(runner.styles) == 15  # one inference a picture


def test_a_fade_from_a_trained_style_shows_both(engines: PaintingEngines, clock: Clock) -> None:
    fading = Painter(size=(96, 160), settings=LiveSettings("t", crossfade_seconds=0.2))
    fading.show(LoadedStyle("t", "fast", FakeEngine(plus=10)))
    assert fading(GREY).mean() == 50
    fading.show(look(engines, "a", 100.0))
    assert fading(GREY).mean() < 140
    clock.now += 0.25
    assert fading(GREY).mean() == 140
    fading.show(LoadedStyle("t", "fast", FakeEngine(plus=10)))
    clock.now += 0.1
    assert 50 < fading(GREY).mean() < 140
    clock.now += 0.15
    assert fading(GREY).mean() == 50


def test_a_fade_keeps_the_strength(engines: PaintingEngines, clock: Clock) -> None:
    """A weak painting and a weak trained style look alike here; whatever the way, no picture of the fade differs."""

    def trained() -> LoadedStyle:
        return LoadedStyle("t", "fast", SharedEngine(FakeEngine(plus=100)))

    for looks in ([trained(), look(engines, "a", 100.0)], [look(engines, "a", 100.0), trained()]):
        settings = LiveSettings("x", strength=0.2, smoothing=0.8, crossfade_seconds=0.3)
        fading = Painter(size=(96, 160), settings=settings)
        means = []
        for new in looks:
            fading.show(new)
            for _ in range(8):
                means.append(fading(GREY).mean())
                clock.now += 0.05
        assert means == pytest.approx([60.0] * 16, abs=1.0)


# The shelf


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StyleShelf:
    networks = AnyPainting.of(*any_painting())
    folder = tmp_path / "styles"
    folder.mkdir()
    monkeypatch.setenv("IMPASTO_STYLES", str(folder))
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMPASTO_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("impasto.assets.style_folders", lambda: (folder,))
    return StyleShelf(book=StyleBook(networks), load=lambda artifact: FakeEngine())


def test_an_uploaded_picture_becomes_a_style(shelf: StyleShelf, tmp_path: Path) -> None:
    data = encoded(drawn(1), ".jpg")
    first, again = (shelf.add_painting(data, name) for name in ("My Große Welle!", "my grosse welle"))
    assert (first.name, first.painting, first.tiers) == ("my-grosse-welle", True, ("fast",))
    assert again.name == "my-grosse-welle-2"
    assert shelf.add_painting(data, "../../etc/passwd").name == "etc-passwd"
    assert shelf.add_painting(data, "…").name == "painting"
    assert sorted(entry.name for entry in shelf.entries()) == sorted(
        ["my-grosse-welle", "my-grosse-welle-2", "etc-passwd", "painting"]
    )
    style = load_artifact(tmp_path / "styles" / "my-grosse-welle.fast.onnx").metadata
    assert (style.kind, len(style.style.sha256)) == ("single", 64)
    np.testing.assert_allclose(shelf.vector("painting"), shelf.vector("etc-passwd"))
    assert shelf.vector("nobody") is None


def test_a_style_of_ones_own_gives_no_other_another_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_artifact, identity_model
) -> None:
    own, ours = tmp_path / "own", tmp_path / "ours"
    monkeypatch.setenv("IMPASTO_STYLES", str(own))
    monkeypatch.setattr("impasto.assets.style_folders", lambda: (own, ours))

    def put(folder: Path, name: str, day: int) -> None:
        folder.mkdir(exist_ok=True)
        path = make_artifact(identity_model, name=name).path.rename(folder / f"{name}.fast.onnx")
        os.utime(path, ns=(0, day * 86_400 * 10**9))

    def order(shelf: StyleShelf) -> list[str]:
        return [entry.name for entry in shelf.entries()]

    for day, name in enumerate(("wave", "mosaic", "udnie")):
        put(ours, name, 20_000 - day)
    extra = make_artifact(identity_model, name="given").path.rename(tmp_path / "given.onnx")
    shelf = StyleShelf(extra=extra)
    assert order(shelf) == ["mosaic", "udnie", "wave", "given"]
    put(own, "zebra", 10_000)
    put(own, "apple", 10_001)
    put(own, "udnie", 10_002)  # hides ours, and has its number
    put(own, "next", 50_000)  # added while the run with the given one goes on
    assert order(shelf) == ["mosaic", "udnie", "wave", "zebra", "apple", "given", "next"]
    assert order(StyleShelf()) == ["mosaic", "udnie", "wave", "zebra", "apple", "next"]  # as after a restart


def test_a_painting_that_was_removed_is_known_no_more(shelf: StyleShelf, tmp_path: Path) -> None:
    shelf.add_painting(encoded(drawn(1), ".jpg"), "wave")
    before = shelf.vector("wave")
    assert before is not None
    shelf.remove("wave")
    assert shelf.vector("wave") is None
    shelf.add_painting(encoded(drawn(2), ".jpg"), "wave")  # the name is free again, as no preset has it
    assert np.abs(shelf.vector("wave") - before).max() > 0
    named = StyleShelf(extra=tmp_path / "styles" / "wave.fast.onnx", book=shelf._book)
    named.remove("wave")
    assert named.entries() == []


def test_a_painting_never_gets_a_name_that_a_preset_means_another_by(shelf: StyleShelf, tmp_path: Path) -> None:
    for name in ("wave", "dunes"):
        shelf.add_painting(encoded(drawn(1), ".jpg"), name)
    save_preset("sea", LiveSettings("wave", mix_with="dunes", mix=0.5))
    (tmp_path / "config" / "presets" / "broken.toml").write_text("style = ")
    for name in ("wave", "dunes"):
        shelf.remove(name)
        assert shelf.add_painting(encoded(drawn(2), ".jpg"), name).name == f"{name}-2"


def test_no_name_is_opened_as_a_path(shelf: StyleShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.add_painting(encoded(drawn(1), ".jpg"), "wave")
    outside = (tmp_path / "styles" / "wave.fast.onnx").rename(tmp_path / "outside.onnx")
    assert shelf.vector(str(outside)) is None
    assert shelf.vector("wave") is None
    outside.rename(tmp_path / "styles" / "wave.fast.onnx")  # a style that comes later is found
    assert shelf.vector("wave") is not None


@pytest.mark.parametrize("data", [b"", b"junk" * 999, bomb(12_000)], ids=["empty", "junk", "144 megapixels"])
def test_what_is_no_picture_or_too_large_stays_out(shelf: StyleShelf, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactError, match="painting must be a picture of at most 67 megapixels"):
        shelf.add_painting(data, "x")
    assert list((tmp_path / "styles").iterdir()) == []


def test_an_engine_without_a_style_input_paints_the_folded_style(shelf: StyleShelf) -> None:
    shelf.add_painting(encoded(drawn(1)), "x")
    assert isinstance(shelf.open("x", "fast"), FakeEngine)  # FakeEngine takes no style


def test_the_network_for_any_painting_is_no_style(shelf: StyleShelf, tmp_path: Path) -> None:
    """By itself it gives the camera's own picture back."""
    stylizer = shelf._book.networks.stylizer.path
    with pytest.raises(ArtifactError, match="must be the style of one painting"):
        StyleShelf(extra=stylizer)
    (tmp_path / "styles" / "any.fast.onnx").write_bytes(stylizer.read_bytes())
    (entry,) = shelf.entries()
    assert "must be the style of one painting" in entry.problem
    with pytest.raises(ArtifactError, match="must be the style of one painting"):
        shelf.open("any", "fast")


def test_a_mix_needs_a_painting() -> None:
    with pytest.raises(ValueError, match="mix must be between 0 and 1, got 2"):
        LiveSettings("a", mix=2)
    assert LiveSettings("a").changed({"mix": 0.5, "mix_with": "b"}).mix == 0.5


def test_the_preview_of_a_painting_is_painted(
    shelf: StyleShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_CONFIG", str(tmp_path / "config"))
    shelf.add_painting(encoded(drawn(1)), "x")
    jpeg = shelf.preview("x")
    assert jpeg is not None
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (180, 320, 3)
