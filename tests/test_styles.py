"""Installed styles: found, listed, added, removed, previewed."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from impasto.assets import DEMO_CLIP, any_painting, find_style, installed_styles, user_styles
from impasto.assets.make_styles import _last_frame_of_demo
from impasto.export.artifact import Artifact, load_artifact, load_style, parse_model, seal
from impasto.export.errors import ArtifactError
from impasto.realtime import cli_styles, engine_choice
from impasto.realtime.cli import app
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.errors import EngineError
from impasto.realtime.live_styles import StyleShelf

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMPASTO_STYLES", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["styles", *map(str, arguments)])
        return done.exit_code, done.stdout, done.stderr

    return invoke


SHIPPED = sorted((name, tier) for name, tiers in installed_styles().items() for tier in tiers)


@pytest.mark.parametrize(("name", "tier"), SHIPPED)
def test_a_shipped_style_says_where_it_comes_from(name: str, tier: str) -> None:
    known = load_artifact(find_style(name, tier)).metadata
    assert (known.name, known.tier, known.stride) == (name, tier, 4)
    assert known.style.title
    assert known.style.artist
    assert known.style.year
    assert known.style.licence == "public domain"
    assert len(known.style.sha256) == 64
    assert known.training["steps"] == known.training["step"]
    assert {"content", "style"} <= known.losses.keys()
    assert any(parity.precision == "fp32" and parity.psnr_db >= 50 for parity in known.parity)


def test_mosaic_ships_in_the_fast_tier() -> None:
    assert ("mosaic", "fast") in SHIPPED
    assert find_style("mosaic") == find_style("mosaic", "fast")


def test_the_demo_clip_is_small_and_has_sound() -> None:
    import av

    with av.open(str(DEMO_CLIP)) as clip:
        assert 3 <= clip.duration / av.time_base <= 5
        assert clip.streams.video
        assert clip.streams.audio
    assert DEMO_CLIP.stat().st_size < 1_000_000


def test_an_unknown_style_names_those_that_are_there() -> None:
    with pytest.raises(ArtifactError, match=r"mosaic, .*onnx file.* a painting .* a blend"):
        find_style("no-such-style")
    with pytest.raises(ArtifactError, match="tier of mosaic"):
        find_style("mosaic", "slow")


def test_the_list_has_a_row_for_each_style(run: Run) -> None:
    code, out, _ = run("--json")
    assert code == 0
    assert sorted((row["name"], row["tier"]) for row in json.loads(out)) == SHIPPED
    code, out, _ = run()
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 1 + len(SHIPPED) + 1
    assert all(line.startswith(name) for (name, _), line in zip(SHIPPED, lines[1:], strict=False))
    assert "The Great Wave off Kanagawa" in out  # whole, where no terminal is narrow
    assert lines[-1] == "licence of all paintings: public domain"


def test_a_style_is_added_listed_and_removed(run: Run, identity_artifact: Artifact, own_folder: Path) -> None:
    assert run("add", identity_artifact.path)[0] == 0
    assert find_style("identity") == own_folder / "identity.fast.onnx"
    code, _, err = run("add", identity_artifact.path)
    assert (code, "--overwrite" in err) == (3, True)
    assert run("add", identity_artifact.path, "--overwrite")[0] == 0
    assert run("remove", "identity")[0] == 0
    assert list(own_folder.iterdir()) == []


def test_a_user_style_hides_ours_of_the_same_name(make_artifact, identity_model, run: Run, own_folder: Path) -> None:
    assert "quality" in installed_styles()["mosaic"]
    run("add", make_artifact(identity_model, name="mosaic").path)
    assert find_style("mosaic", "fast").parent == own_folder == user_styles()
    assert list(installed_styles()["mosaic"]) == ["fast"], "one name is one painting"


def test_a_name_that_leads_out_of_the_folder_is_refused(
    run: Run, identity_artifact: Artifact, own_folder: Path, tmp_path: Path
) -> None:
    outside = replace(identity_artifact.metadata, name="../outside/x")
    (tmp_path / "x.onnx").write_bytes(seal(parse_model(identity_artifact), outside))
    code, _, err = run("add", tmp_path / "x.onnx")
    assert (code, len(err.strip().splitlines())) == (3, 1)
    assert "name must be 1 to 100 printable characters" in err
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


def test_what_ships_cannot_be_removed(run: Run) -> None:
    code, _, err = run("remove", "mosaic")
    assert code == 3
    assert len(err.strip().splitlines()) == 1
    assert find_style("mosaic").is_file()


def test_a_style_is_removed_whole_or_not_at_all(
    run: Run, make_artifact, identity_model, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_folder.mkdir()
    files = [own_folder / f"own.{kind}.onnx" for kind in ("fast", "fast.int8", "quality")]
    for path in files:
        make_artifact(identity_model, name="own").path.rename(path)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == files[2]:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    code, _, err = run("remove", "own")
    assert (code, err) == (3, f"error: {files[2]} cannot be removed: Permission denied\n")
    assert sorted(own_folder.iterdir()) == sorted(files)


def test_a_style_that_is_replaced_keeps_its_place(run: Run, make_artifact, identity_model, own_folder: Path) -> None:
    new = make_artifact(identity_model, name="first").path
    for name in ("first", "second"):
        run("add", make_artifact(identity_model, name=name).path)
    os.utime(find_style("first"), ns=(0, find_style("second").stat().st_mtime_ns - 10**9))
    version = StyleShelf().version()
    assert run("add", new, "--overwrite")[0] == 0
    assert [entry.name for entry in StyleShelf().entries() if entry.removable] == ["first", "second"]
    assert StyleShelf().version() != version  # which tells every page


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_what_is_no_artifact_is_not_added(run: Run, tmp_path: Path, own_folder: Path, content: bytes | None) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run("add", path)
    assert code == 3
    assert len(err.strip().splitlines()) == 1
    assert not own_folder.exists()


@pytest.mark.parametrize("path", any_painting(), ids=["stylizer", "encoder"])
def test_what_any_painting_is_painted_with_is_no_style(run: Run, own_folder: Path, path: Path) -> None:
    code, _, err = run("add", path)
    assert (code, "must be the style of one painting" in err) == (3, True)
    assert not own_folder.exists()


def test_a_broken_style_is_named_beside_the_list_of_the_others(run: Run, own_folder: Path) -> None:
    own_folder.mkdir()
    (own_folder / "broken.fast.onnx").write_bytes(b"not a model")
    code, out, err = run("--json")
    assert code == 0
    assert sorted((row["name"], row["tier"]) for row in json.loads(out)) == SHIPPED
    assert err.startswith("warning: ")
    assert "broken.fast.onnx" in err
    assert len(err.splitlines()) == 1


def test_a_preview_is_a_picture_of_every_style(run: Run, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert run("--preview", sheet)[0] == 0
    picture = cv2.imread(str(sheet))
    rows = -(-(len(SHIPPED) + 1) // 3)
    assert picture.shape[0] > rows * 270
    assert picture[100:200, 100:300].std() > 5
    assert run("--preview", sheet)[0] == 6


def test_a_preview_is_painted_by_what_each_style_can_have(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where only the first style has been built for a card."""
    asked = []

    def load(artifact: Artifact, **how: str) -> object:
        asked.append(how)
        if how and artifact.metadata.name != "mosaic":
            raise EngineError("must have been built")
        return load_engine(artifact, device="cpu")

    monkeypatch.setattr(engine_choice, "load_engine", load)
    styles = [load_style(find_style(name)) for name in ("mosaic", "udnie")]
    monkeypatch.setattr(cli_styles, "_load_all", lambda: styles)
    assert run("--preview", tmp_path / "sheet.png")[0] == 0
    assert [bool(how) for how in asked] == [False, True, False]


@pytest.mark.parametrize("words", [["--preview"], ["--overwrite", "--preview"], ["--preview", "--overwrite"]])
def test_a_preview_needs_no_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_styles, "_load_all", list)  # the photograph alone
    code, out, err = run(*words)
    assert (code, out.strip()) == (0, "wrote styles.png"), err
    assert cv2.imread("styles.png") is not None
    assert run("--preview")[0] == 6
    assert run(*words)[0] == (0 if "--overwrite" in words else 6)
    assert run("--preview=other.png")[0] == 0
    assert run("--preview", "another.png")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"styles.png", "other.png", "another.png"}


def test_a_preview_never_replaces_its_photograph(run: Run, tmp_path: Path) -> None:
    photo = tmp_path / "x.png"
    cv2.imwrite(str(photo), np.zeros((32, 48, 3), np.uint8))
    before = photo.read_bytes()
    code, _, err = run("--preview", photo, "--photo", photo, "--overwrite")
    assert (code, "must not be the photograph itself" in err) == (6, True)
    assert photo.read_bytes() == before


def test_a_preview_of_what_is_no_picture_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"not a picture")
    assert run("--preview", tmp_path / "a.png", "--photo", tmp_path / "x.jpg")[0] == 4
    assert run("--preview", tmp_path / "a.nonsense")[0] == 6


def test_a_preview_is_written_whole_or_not_at_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_styles, "_load_all", list)  # the photograph alone
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"of before")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = run("--preview", sheet, "--overwrite")
    assert (code, "No space left on device" in err) == (6, True)
    assert sheet.read_bytes() == b"of before"
    assert list(tmp_path.iterdir()) == [sheet]


@pytest.mark.usefixtures("windows_names")
def test_the_photograph_of_the_previews_is_written_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "Jörg").mkdir()
    assert _last_frame_of_demo(tmp_path / "Jörg" / "photograph.png").stat().st_size > 10_000
