"""`whole_file`: what every package writes its files with. A file of frames has its own way, in test_sink.py."""

from pathlib import Path

import pytest

from impasto.training.whole_file import discard_parts, whole_file


def test_the_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with whole_file(path) as part:
        part.write_bytes(b"half")
        assert not path.exists()
        assert part.name.startswith(".")
        assert list(tmp_path.glob("*.png")) == []  # a search for pictures does not find it
        part.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [False, True])
def test_whatever_goes_wrong_the_file_before_it_stays(tmp_path: Path, error: type[BaseException], begun: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")

    def fail(part: Path) -> None:
        if begun:
            part.write_text("half")
        raise error

    with pytest.raises(error), whole_file(path) as part:
        fail(part)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_files_place_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(OSError, match=r"a\.csv"), whole_file(tmp_path / "a.csv") as part:
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_writers_error_comes_out_where_a_file_stands_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"a\.csv") as caught, whole_file(tmp_path / "file" / "a.csv") as part:
        part.write_text("whole")
    assert caught.value.__context__ is None


def test_two_runs_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with whole_file(path) as late:
        late.write_text("late")
        with whole_file(path) as early:
            early.write_text("early")
        assert path.read_text() == "early"
    assert path.read_text() == "late"


def test_what_a_killed_program_left_can_be_removed(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("a.part", ".a.part", ".state.pt.0123abcd.party", "state.pt.0123abcd.part")]
    for path in (*kept, tmp_path / ".state.pt.0123abcd.part"):
        path.touch()
    discard_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
