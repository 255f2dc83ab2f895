"""`impasto gatys`: its files, its errors, Ctrl-C, a sweep, and a film's keyframes as training pairs."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from impasto.realtime.cli import app as impasto
from impasto.realtime.gatys_film import FlowChain, open_film
from impasto.training.data import read_picture
from impasto.training.errors import TrainingError
from impasto.training.gatys_config import GatysConfig
from impasto.training.gatys_sweep import combinations, parse_axis
from impasto.training.keyframes import KeyframePairs, read_keyframes

SMALL = ["--size", "96", "--min-size", "64", "--iterations", "6", "--style-weight", "5"]


def blobs(seed, height=96, width=128):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path, tiny_loss_weights):
    cv2.imwrite(str(tmp_path / "photo.png"), blobs(0))
    cv2.imwrite(str(tmp_path / "a.png"), blobs(1))
    cv2.imwrite(str(tmp_path / "b.png"), blobs(2))
    return tmp_path


@pytest.fixture
def run(folder, tiny_loss_weights, monkeypatch):
    monkeypatch.chdir(folder)

    def invoke(*arguments, small=True):
        more = [*(SMALL if small else []), "--loss-weights", str(tiny_loss_weights)]
        return CliRunner().invoke(impasto, ["gatys", *map(str, arguments), *more])

    return invoke


def test_a_picture_is_painted_and_nothing_is_replaced_unasked(run, folder):
    result = run("photo.png", "a.png", "-o", "out.png")
    assert result.exit_code == 0, result.output
    assert "out.png: 96x72 in" in result.stdout
    assert "needs about" in result.stderr
    assert read_picture(folder / "out.png").shape == (72, 96, 3)
    again = run("photo.png", "a.png", "-o", "out.png")
    assert again.exit_code == 3
    assert "pass --overwrite" in again.stderr
    assert run("photo.png", "a.png", "-o", "out.png", "--overwrite", "-q").output == ""
    assert not list(folder.glob(".*"))


def test_intermediate_pictures_and_several_paintings_and_masks(run, folder):
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[:, 64:] = 255
    cv2.imwrite("m.png", mask)
    result = run(
        "photo.png", "a.png", "b.png", "-o", "out.jpg", "--blend", "2,1", "--save-every", "3", "--content-mask",
        "m.png", "--style-mask", "m.png", "--style-mask", "m.png", "--color", "luminance", "--statistics", "covariance",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in folder.glob("out*"))
    assert names == ["out.jpg"] + [f"out.scale{s}.0000{i}.jpg" for s in (1, 2) for i in (3, 6)]
    assert read_picture(folder / "out.scale1.00003.jpg").shape[1] == 68
    (folder / "out.jpg").unlink()
    again = run("photo.png", "a.png", "-o", "out.jpg", "--save-every", "3")
    assert (again.exit_code, "out.scale1.00003.jpg must not exist yet" in again.stderr) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["none.png", "a.png", "-o", "o.png"], 3, "cannot read picture none.png"),
        (["photo.png", "a.png", "-o", "o.txt"], 2, "must end in one of .jpg"),
        (["photo.png", "a.png", "-o", "none/o.png"], 3, "none must be a folder"),
        (["photo.png", "a.png", "-o", "photo.png", "--overwrite"], 3, "photo.png must not be one of the pictures"),
        (["photo.png", "a.png", "-o", "a.png", "--overwrite"], 3, "a.png must not be one of the pictures"),
        (["photo.png", "a.png", "-o", "o.png", "--threads", "999999"], 2, "--threads"),
        (["photo.png", "a.png", "-o", "o.png", "--blend", "1,2"], 2, "--blend must be 1 weights"),
        (["photo.png", "a.png", "-o", "o.png", "--style-layers", "relu9_1"], 2, "layers must be among relu1_1"),
        (["photo.png", "a.png", "-o", "o.png", "--device", "warp"], 3, "device must be one that torch can use"),
        (["photo.png", "a.png", "-o", "o.png", "--style-mask", "a.png"], 2, "masks must be given"),
        (["photo.png", "a.png", "-o", "o.png", "--noise", "7"], 2, "noise must be in 0…1, got 7"),
        (["sweep", "photo.png", "a.png", "-o", "o.png", "--vary", "size=1"], 2, "--vary must be OPTION=A,B"),
        (["sweep", "photo.png", "a.png", "-o", "a.png", "--vary", "seed=1,2", "--overwrite"], 3, "a.png must not be"),
        (["sweep", "photo.png", "a.png", "-o", "o.png", "--vary", "optimizer=sgd"], 2, "lbfgs, adam, got 'sgd'"),
        (["video", "photo.png", "a.png", "-o", "k"], 2, "either --every 2s or --at-cuts"),
        (["video", "photo.png", "a.png", "-o", "k", "--every", "soon"], 2, "--every must be seconds"),
        (["video", "none.mp4", "a.png", "-o", "k", "--at-cuts"], 4, "none.mp4"),
    ],
)
def test_bad_requests_get_one_line_and_a_code(run, arguments, code, text):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_named_pipe_is_not_waited_for(run):
    os.mkfifo("pipe.png")
    for pictures in (("pipe.png", "a.png"), ("photo.png", "pipe.png")):
        result = run(*pictures, "-o", "o.png")
        assert (result.exit_code, "pipe.png: must be a file" in result.stderr) == (3, True)


def test_ctrl_c_writes_the_best_so_far(folder, tiny_loss_weights):
    command = [sys.executable, "-c", "from impasto.realtime.cli import main; main()", "gatys", "photo.png", "a.png"]
    command += ["-o", "out.png", "--size", "96", "--min-size", "96", "--iterations", "1000000", "--save-every", "2"]
    process = subprocess.Popen(
        [*command, "--loss-weights", str(tiny_loss_weights)], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("out.scale1.*")):  # it has begun
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the picture is the best so far" in errors
    assert "Traceback" not in errors
    assert read_picture(folder / "out.png").shape == (72, 96, 3)


def test_a_sweep_draws_a_grid(run, folder):
    result = run(
        "sweep", "photo.png", "a.png", "-o", "grid.png", "--vary", "tv-weight=1,100", "--vary",
        "style-layers=relu1_1,relu1_1+relu2_1", small=True,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "grid.png: 4 pictures" in result.stdout
    drawn = read_picture(folder / "grid.png")
    assert drawn.shape[1] > drawn.shape[0] > 400
    assert run("sweep", "photo.png", "a.png", "-o", "grid.png", "--vary", "seed=1,2").exit_code == 3


@pytest.mark.parametrize(
    ("vary", "code", "text"),
    [
        (["content-weight=1,0", "style-weight=100,0"], 2, "must not both be 0"),
        (["style-layers=relu1_1,relu9_1"], 2, "layers must be among relu1_1"),
        (["min-size=96,200"], 2, "min_size must be in 64…size (96), got 200"),
        (["history=3,100000000"], 3, "a smaller --history"),
    ],
)
def test_a_sweep_is_refused_before_its_first_picture(run, monkeypatch, vary, code, text):
    monkeypatch.setattr("impasto.training.gatys_sweep.paint", lambda *_, **__: pytest.fail("painted"))
    monkeypatch.setattr("impasto.training.gatys.available_memory", lambda device: 2**30)
    result = run("sweep", "photo.png", "a.png", "-o", "grid.png", *(word for one in vary for word in ("--vary", one)))
    assert result.exit_code == code, result.output
    assert text in result.stderr


def test_a_sweep_holds_what_fits_the_other_options():
    config = GatysConfig(size=640, style_weight=0)
    (row,) = combinations(config, [parse_axis("min-size=600,640")])
    assert [(label, here.min_size) for label, here in row] == [("min-size 600", 600), ("min-size 640", 640)]
    rows = combinations(config, [parse_axis("style-weight=1,2"), parse_axis("content-weight=0,1")])
    assert [[(here.style_weight, here.content_weight) for _, here in row] for row in rows] == [
        [(1, 0), (2, 0)], [(1, 1), (2, 1)]
    ]  # fmt: skip


def test_axes_are_parsed():
    axis = parse_axis("--style-layers=relu1_1,relu1_1+relu2_1=0.5")
    assert [value for _, value in axis.values] == [{"relu1_1": 1.0}, {"relu1_1": 1.0, "relu2_1": 0.5}]
    assert axis.label(1) == "style-layers relu1_1+relu2_1=0.5"
    with pytest.raises(ValueError, match="--vary tv-weight must have values that can be read"):
        parse_axis("tv-weight=a,b")


# --- films ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(make_clip):
    """1.2 s at 25/s: a picture that moves by 2 pixels a frame, then after 0.6 s another."""
    scenes = [blobs(3, 96, 192), 255 - blobs(4, 96, 192)]

    def draw(number, height, width):
        shift = 2 * (number % 15)
        return np.ascontiguousarray(scenes[number // 15][:height, shift : shift + width])

    return make_clip("film.mp4", height=96, width=128, times=tuple(512 * n for n in range(30)), draw=draw)


def test_flow_chain_follows_a_known_motion():
    scene = blobs(5, 96, 192)
    noise = np.random.default_rng(0).integers(0, 60, scene.shape, dtype=np.uint8)
    scene = cv2.GaussianBlur(cv2.add(scene // 2, noise), (0, 0), 1.2)
    frames = [np.ascontiguousarray(scene[:, 3 * i : 3 * i + 128]) for i in range(6)]
    chain = FlowChain()
    with pytest.raises(ValueError, match="start must be called before follow"):
        chain.follow(frames[0])
    chain.start(frames[0])
    for frame in frames[1:]:
        chain.follow(frame)
    moved, trusted = chain.carry(255 - frames[0])
    assert trusted[:, 16:100].mean() > 0.8
    assert not trusted[:, -12:].any()  # came into view
    assert np.abs(moved.astype(int) - (255 - frames[5]))[trusted].mean() < 4


def test_keyframes_of_a_film_and_pairs_of_them(run, folder, film):
    result = run("video", film, "a.png", "-o", "keys", "--every", "0.2s")
    assert result.exit_code == 0, result.output
    assert "next: impasto train a.png --photos PHOTOS --keyframes keys" in result.output
    index = json.loads((folder / "keys" / "keyframes.json").read_text())
    assert [key["number"] for key in index["keyframes"]] == [0, 5, 10, 15, 20, 25]
    assert [key["seconds"] for key in index["keyframes"]] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert index["film"] == "film.mp4"
    for key in read_keyframes(folder / "keys"):
        assert read_picture(folder / "keys" / key.painted).shape == (96, 128, 3)
    assert run("video", film, "a.png", "-o", "keys", "--at-cuts").exit_code == 3  # not empty
    cuts = run("video", film, "a.png", "-o", "cuts", "--at-cuts")
    assert cuts.exit_code == 0, cuts.output
    assert [key.number for key in read_keyframes(folder / "cuts")] == [0, 15]

    pairs = KeyframePairs.load(folder / "keys", crop_size=64, seed=3)
    frames, painted = pairs.batch(7, 4)
    assert frames.shape == painted.shape == (4, 3, 64, 64)
    again, _ = pairs.batch(7, 4)
    assert (frames == again).all()
    assert not (frames == pairs.batch(8, 4)[0]).all()
    # The same place of both: a pair of identical pictures stays one.
    same = KeyframePairs(tuple((frame, frame) for frame, _ in pairs.pairs), 64, 3)
    left, right = same.batch(7, 4)
    assert (left == right).all()
    assert KeyframePairs.load(folder / "keys", crop_size=160, seed=0).batch(0, 1)[0].shape == (1, 3, 160, 160)


def test_bad_folders_of_keyframes_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="must be a folder that `impasto gatys video` wrote"):
        read_keyframes(tmp_path)
    (tmp_path / "keyframes.json").write_text("{")
    with pytest.raises(TrainingError, match="damaged index"):
        read_keyframes(tmp_path)
    entry = {"number": 5, "seconds": 0.2, "frame": 5, "painted": "000005.painted.png"}
    (tmp_path / "keyframes.json").write_text(json.dumps({"keyframes": [entry]}))
    with pytest.raises(TrainingError, match=r"damaged index.*frame and painted must be names of files"):
        read_keyframes(tmp_path)
    (tmp_path / "keyframes.json").write_text('{"keyframes": []}')
    with pytest.raises(TrainingError, match="there are no keyframes"):
        read_keyframes(tmp_path)


def test_later_keyframes_begin_where_the_last_one_went(run, folder, film):
    """With hardly any iterations the second keyframe is still the first one, moved."""
    result = run("video", film, "a.png", "-o", "keys", "--every", "0.2s", "--tv-weight", "0")
    assert result.exit_code == 0, result.output
    with open_film(film) as opened:
        frames = [frame.picture for frame in opened.frames]
    chain = FlowChain()
    chain.start(frames[0])
    for frame in frames[1:6]:
        chain.follow(frame)
    moved, trusted = chain.carry(read_picture(folder / "keys" / "000000.painted.png"))
    second = read_picture(folder / "keys" / "000005.painted.png").astype(int)
    assert np.abs(second - moved)[trusted].mean() < np.abs(second - frames[5])[trusted].mean()
