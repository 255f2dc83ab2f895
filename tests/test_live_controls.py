"""What a person asks of a live run, by key and by name, without a picture being painted."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.live import LiveSession
from impasto.realtime.live_controls import LiveControls
from impasto.realtime.live_painter import LoadedStyle
from impasto.realtime.live_settings import LiveSettings
from impasto.realtime.live_styles import StyleShelf

from .live_helpers import FakeEngine, FakeFeed, Gallery


@pytest.fixture
def said() -> list[str]:
    """What was said to the person."""
    return []


@pytest.fixture
def controls(
    tmp_path: Path,
    make_artifact: Callable[..., Artifact],
    identity_model: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> LiveControls:
    """Of a session that was not started, with the styles calm and storm, both of the fast tier alone."""
    monkeypatch.setattr("impasto.assets.style_folders", lambda: (tmp_path,))
    for name in ("calm", "storm"):
        make_artifact(identity_model, name=name).path.rename(tmp_path / f"{name}.fast.onnx")
    shelf = StyleShelf(load=lambda artifact: FakeEngine())
    session = LiveSession(FakeFeed(), shelf.open, settings=LiveSettings("calm"), size=(96, 160))
    return LiveControls(
        session, shelf, folder=tmp_path / "out", open_recording=lambda path: Gallery().output("recording"),
        open_feed=lambda name: FakeFeed(), camera="test", on_event=said.append, on_quit=lambda: None,
    )  # fmt: skip


def test_the_only_style_stays_and_a_mix_loses_what_is_removed(
    controls: LiveControls, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_STYLES", str(tmp_path))
    controls.session.change({"mix_with": "storm", "mix": 0.5})
    controls.remove_style("storm")
    assert said == ["removed style storm"]
    assert controls.session.settings == LiveSettings("calm", mix=0.5)
    with pytest.raises(ValueError, match="calm must stay as long as there is no other style to paint with"):
        controls.remove_style("calm")
    assert (tmp_path / "calm.fast.onnx").is_file()


def test_what_paints_goes_on_when_the_style_that_loads_is_removed(
    controls: LiveControls, tmp_path: Path, make_artifact, identity_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_STYLES", str(tmp_path))
    for tier in ("fast", "quality"):
        make_artifact(identity_model, name="mine").path.rename(tmp_path / f"mine.{tier}.onnx")
    controls.session._painter.show(LoadedStyle("storm", "fast", FakeEngine()))
    controls.set({"style": "mine", "tier": "quality"})
    assert controls.session.still_there("mine", "quality") == ("mine", "quality")
    controls.remove_style("mine")
    assert controls.session.settings == LiveSettings("storm")  # in the tier that it has
    assert controls.session.still_there("mine", "quality") == ("calm", "fast")


def test_a_style_given_by_its_path_goes_with_its_file_alone(
    controls: LiveControls, tmp_path: Path, make_artifact, identity_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_STYLES", str(tmp_path))
    given = make_artifact(identity_model, name="given").path.rename(tmp_path / "other.fast.onnx")
    controls.shelf = StyleShelf(extra=given, load=lambda artifact: FakeEngine())
    controls.set({"style": "given"})
    controls.remove_style("other")
    assert [entry.name for entry in controls.shelf.entries()] == ["calm", "storm"]
    assert controls.session.settings.style == "calm"

    outside = make_artifact(identity_model, name="given").path.rename(tmp_path / "outside.onnx")
    controls.shelf = StyleShelf(extra=outside, load=lambda artifact: FakeEngine())
    for tier in ("fast", "quality"):
        make_artifact(identity_model, name="given").path.rename(tmp_path / f"given.{tier}.onnx")
    controls.set({"style": "given"})
    forgotten: list[tuple[str, str]] = []
    monkeypatch.setattr(controls.session, "forget", lambda *style: forgotten.append(style))
    controls.remove_style("given")
    assert forgotten == [("given", "quality")]
    assert controls.session.settings.style == "given"
    assert controls.shelf.tiers("given") == ("fast",)


def test_a_tier_that_the_style_has_not_is_refused(controls: LiveControls, said: list[str]) -> None:
    controls.press("t")
    assert said == ["tier of calm must be one of fast, got 'quality'"]
    with pytest.raises(ValueError, match="tier of calm must be one of fast"):
        controls.set({"tier": "quality"})
    with pytest.raises(ValueError, match="style must be one of calm, storm"):
        controls.set({"style": ["storm"]})
    assert controls.session.settings == LiveSettings("calm")


def test_a_digit_is_a_style_and_no_other_sign_is(controls: LiveControls, said: list[str]) -> None:
    controls.press("2")
    assert controls.session.settings.style == "storm"
    said.clear()
    for key in ("²", "٣", "", "0", "12", "é", "\x1b"):
        controls.press(key)
    assert said == []
    assert controls.session.settings.style == "storm"
