"""Evaluation: its figures against losses worked out in numpy, its command against the pictures and files it writes."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from impasto.realtime.cli import app as impasto
from impasto.training import evaluate as evaluate_module
from impasto.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from impasto.training.data import read_picture, resize_short_side
from impasto.training.errors import TrainingError
from impasto.training.evaluate import LossSettings, Paintings, Subject, checkpoint_painter, evaluate
from impasto.training.evaluate_cli import OpenedStyle
from impasto.training.loss_network import load_loss_network
from impasto.training.networks import NetworkConfig, build_network
from impasto.training.quality import evaluation_picture, grid_pattern, structure_kept, style_distance_of
from impasto.training.sheets import contact_sheet, write_picture

SETTINGS = LossSettings(content_weight=2.0, style_weight=3.0, tv_weight=0.5, style_side=96)


@pytest.fixture(scope="module")
def loss_network(tiny_loss_weights):
    return load_loss_network(weights=tiny_loss_weights)


def blobs(seed, height=120, width=160):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def subject():
    def paint(picture):
        return np.ascontiguousarray(255 - picture[:, ::-1])

    return Subject("blobs", "fast", paint, SETTINGS, blobs(1))


def wasserstein(x, y):
    """Squared 2-Wasserstein distance of the normal distributions of (C, N) samples, relative to the energy of y."""
    (m, s), (n, t) = ((v.mean(1), np.cov(v, ddof=0)) for v in (x, y))
    values, vectors = np.linalg.eigh(t)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s @ root).clip(0)).sum()
    return (((m - n) ** 2).sum() + np.trace(s + t) - 2 * cross) / ((n**2).sum() + np.trace(t))


def losses_in_numpy(loss_network, photo, painted, painting, statistics="gram"):
    def features(picture, layer):
        x = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32).copy())[None]
        f = loss_network(x, [layer])[layer][0].detach().numpy().astype(np.float64)
        return f.reshape(len(f), -1)

    wanted, got = features(photo, "relu2_2"), features(painted, "relu2_2")
    content = ((got - wanted) ** 2).sum() / (wanted**2).sum()
    style = 0.0
    for layer in ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"):
        if statistics == "covariance":
            style += wasserstein(features(painted, layer), features(painting, layer))
            continue
        g, a = (f @ f.T / f.size for f in (features(painted, layer), features(painting, layer)))
        style += ((g - a) ** 2).sum() / (a**2).sum()
    p = painted / 255
    tv = ((p[1:] - p[:-1]) ** 2).mean() + ((p[:, 1:] - p[:, :-1]) ** 2).mean()
    return content, style, tv, 2.0 * content + 3.0 * style + 0.5 * tv


@pytest.mark.parametrize("statistics", ["gram", "covariance"])
def test_figures_are_those_of_numpy(subject, loss_network, statistics):
    subject = replace(subject, settings=replace(SETTINGS, statistics=statistics))
    report = evaluate(subject, {"a": blobs(2)}, loss_network, evaluations=[3])
    square = evaluation_picture(blobs(2))
    painted = subject.paint(square)
    painting = resize_short_side(subject.painting, SETTINGS.style_side)
    score = report.photos[0].network
    wanted = losses_in_numpy(loss_network, square, painted, painting, statistics)
    assert [score.content, score.style, score.tv, score.total] == pytest.approx(wanted, rel=1e-3)  # float32 sums
    assert score.structure_kept == structure_kept(square, painted)
    assert score.style_distance == pytest.approx(style_distance_of(painted, subject.painting, loss_network), rel=1e-4)
    assert score.grid == grid_pattern(painted)
    gatys = report.photos[0].gatys[3]
    wanted = losses_in_numpy(loss_network, square, report.photos[0].pictures["gatys"], painting, statistics)
    assert [gatys.content, gatys.style, gatys.tv, gatys.total] == pytest.approx(wanted, rel=1e-3)


def test_gatys_falls_and_the_equivalent_is_where_it_passes_the_network(subject, loss_network):
    photos = {"a": blobs(2), "b": blobs(3)}
    counts = [1, 4, 10]
    curves = {name: [] for name in photos}
    report = evaluate(
        subject, photos, loss_network, evaluations=counts, callback=lambda name, e: curves[name].append(e.best)
    )
    totals = [report.gatys[count].total for count in counts]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 0.8 * totals[0]
    for photo in report.photos:
        curve = curves[photo.photo]
        assert len(curve) == 10
        passed = [i for i, total in enumerate(curve, 1) if total <= photo.network.total]
        assert photo.gatys_equivalent == (passed[0] if passed else None)
        assert photo.speed_up > 0
    assert report.network.total == np.median([photo.network.total for photo in report.photos])
    assert json.loads(json.dumps(report.to_json()))["gatys"]["10"]["total"] == report.gatys[10].total


def test_a_painter_better_than_gatys_equals_more_evaluations_than_were_given(subject, loss_network):
    square = evaluation_picture(blobs(2))
    best = evaluate(subject, {"a": blobs(2)}, loss_network, evaluations=[8]).photos[0].pictures["gatys"]
    ideal = replace(subject, paint=lambda picture: best if (picture == square).all() else picture)
    short = evaluate(ideal, {"a": blobs(2)}, loss_network, evaluations=[4])
    assert short.gatys_equivalent is None
    longer = evaluate(ideal, {"a": blobs(2)}, loss_network, evaluations=[9])
    # Rounding to bytes costs the picture a little of its total, never much more than an evaluation's worth.
    assert longer.gatys_equivalent in (6, 7, 8, 9)


def test_gatys_can_begin_with_noise_which_costs_it_more(subject, loss_network):
    firsts = {}
    for start in ("content", "noise"):
        curve = []
        report = evaluate(
            subject, {"a": blobs(2)}, loss_network, evaluations=[4], start=start,
            callback=lambda _, e, curve=curve: curve.append(e),
        )  # fmt: skip
        assert report.to_json()["gatys_start"] == start
        firsts[start] = curve[0].losses
    assert firsts["content"]["content"] == 0.0  # the photograph itself
    assert firsts["noise"]["content"] > 0.0
    assert firsts["noise"]["total"] > firsts["content"]["total"]


def test_bad_requests_are_refused(subject, loss_network, tmp_path):
    with pytest.raises(ValueError, match="at least one photograph"):
        evaluate(subject, {}, loss_network)
    with pytest.raises(ValueError, match="numbers from 1, got 0, 5"):
        evaluate(subject, {"a": blobs(2)}, loss_network, evaluations=[0, 5])
    with pytest.raises(TrainingError, match=r"weights of the losses: 'final_style_weight' in here\.onnx"):
        LossSettings.of_training({"content_weight": 1}, where="here.onnx")
    cv2.imwrite(str(tmp_path / "other.png"), blobs(1))
    with pytest.raises(TrainingError, match="SHA-256 abababababab"):
        Paintings(tmp_path).find("ab" * 32, what="the painting")


@pytest.fixture
def folder(tmp_path):
    """Photographs, a painting, and a checkpoint that names it."""
    for name in ("photos", "paintings", "run"):
        (tmp_path / name).mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), blobs(i))
    cv2.imwrite(str(tmp_path / "paintings" / "any name.png"), blobs(9))
    config = NetworkConfig("fast", width=4, blocks=1)
    sha256 = hashlib.sha256((tmp_path / "paintings" / "any name.png").read_bytes()).hexdigest()
    training = {"content_weight": 1, "final_style_weight": 5.0, "tv_weight": 0.1, "style_size": 96, "style_scale": 1.5}
    style = {"title": "Nine Blobs", "artist": "A. N. Other", "sha256": sha256}
    metadata = {"name": "blobs", "tier": "fast", "style": style, "training": training}
    torch.manual_seed(1)
    save_checkpoint(
        tmp_path / "run" / "checkpoint.safetensors", Checkpoint(config, build_network(config).state_dict(), metadata)
    )
    return tmp_path


def run(folder, tiny_loss_weights, *more, paintings="paintings"):
    arguments = ["evaluate", str(folder / "run"), "--photos", str(folder / "photos"), "--evaluations", "2,4"]
    arguments += ["--paintings", str(folder / paintings)] if paintings else []
    return CliRunner().invoke(impasto, [*arguments, "--loss-weights", str(tiny_loss_weights), *map(str, more)])


def test_the_command_writes_table_json_and_sheet(folder, tiny_loss_weights):
    result = run(folder, tiny_loss_weights, "--num-photos", 2, "--sheet", folder / "s.png", "-o", folder / "r.json")
    assert result.exit_code == 0, result.output
    assert "blobs (fast)" in result.stdout
    assert "Gatys, 4" in result.stdout
    (report,) = json.loads((folder / "r.json").read_text())
    assert [photo["photo"] for photo in report["photos"]] == ["0.png", "2.png"]
    assert report["settings"]["style_side"] == 144
    assert report["settings"]["style_weight"] == 5.0
    sheet = read_picture(folder / "s.png")
    assert sheet.shape[1] > 4 * 300  # four columns, two rows
    assert sheet.shape[0] > 2 * 300
    shown = sheet[28 : 28 + 320, 4 : 4 + 320].astype(int)
    photo = cv2.resize(evaluation_picture(read_picture(folder / "photos" / "0.png")), (320, 320))
    assert np.abs(shown - photo).mean() < 2
    # Nothing is replaced unasked.
    again = run(folder, tiny_loss_weights, "--num-photos", 1, "--sheet", folder / "s.png")
    assert again.exit_code == 3
    assert "pass --overwrite" in again.stderr
    photo = folder / "photos" / "0.png"
    onto_photo = run(folder, tiny_loss_weights, "--num-photos", 1, "--sheet", photo, "--overwrite")
    assert (onto_photo.exit_code, "must not be one of the pictures" in onto_photo.stderr) == (3, True)
    same = run(folder, tiny_loss_weights, "--num-photos", 1, "--sheet", folder / "t.png", "-o", folder / "t.png")
    assert (same.exit_code, "must be two files" in same.stderr) == (2, True)


def test_two_runs_of_one_name_are_two_rows(folder, tiny_loss_weights):
    shutil.copytree(folder / "run", folder / "again")
    more = [folder / "again", "--num-photos", 1, "--evaluations", 1, "--sheet", folder / "s.png", "--json"]
    result = run(folder, tiny_loss_weights, *more)
    assert result.exit_code == 0, result.output
    assert [report["name"] for report in json.loads(result.stdout)] == ["blobs", f"blobs ({folder / 'again'})"]
    assert read_picture(folder / "s.png").shape[0] > 2 * 300


def as_recorded(folder):
    """The painting where only the training's own record leads."""
    (folder / "far" / "off").mkdir(parents=True)
    path = shutil.move(folder / "paintings" / "any name.png", folder / "far" / "off" / "blobs.png")
    path = str(Path(path).resolve())
    known = load_checkpoint(folder / "run" / "checkpoint.safetensors")
    training = {**known.metadata["training"], "style_image": path}
    metadata = {**known.metadata, "training": training}
    save_checkpoint(folder / "run" / "checkpoint.safetensors", replace(known, metadata=metadata))


@pytest.mark.parametrize(
    ("start", "move"),
    [
        ("", lambda folder: None),
        ("paintings", lambda folder: None),
        ("photos", lambda folder: shutil.move(folder / "paintings" / "any name.png", folder / "run")),
        ("photos", as_recorded),
    ],
    ids=["in a folder here", "here", "beside the checkpoint", "where the training had it"],
)
def test_the_painting_is_looked_for(folder, tiny_loss_weights, monkeypatch, start, move):
    move(folder)
    (folder / start / "a.png").write_bytes(b"not a picture")
    monkeypatch.chdir(folder / start)
    result = run(folder, tiny_loss_weights, "--num-photos", 1, "--evaluations", "1", paintings=None)
    assert result.exit_code == 0, result.output
    assert "blobs (fast)" in result.stdout


def test_a_painting_that_is_not_found_is_named(folder, tiny_loss_weights, monkeypatch):
    (folder / "paintings" / "deep").mkdir()
    shutil.move(folder / "paintings" / "any name.png", folder / "paintings" / "deep")
    monkeypatch.chdir(folder)
    result = run(folder, tiny_loss_weights, "--num-photos", 1, paintings=None)
    assert result.exit_code == 3
    assert "Nine Blobs by A. N. Other" in result.stderr
    assert "--paintings" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_search_is_bounded_and_begins_with_small_folders(folder, monkeypatch):
    sha256 = hashlib.sha256((folder / "paintings" / "any name.png").read_bytes()).hexdigest()
    (folder / "paintings").rename(folder / "zzz")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(evaluate_module, "_SEARCHED", 3)
    assert (Paintings().find(sha256, what="it") == read_picture(folder / "zzz" / "any name.png")).all()
    shutil.move(folder / "zzz" / "any name.png", folder / "photos" / "zzz.png")
    with pytest.raises(TrainingError, match="among 3 pictures"):
        Paintings().find(sha256, what="it")


def test_damaged_photographs_are_replaced_by_the_next(folder, tiny_loss_weights):
    for name in ("2.png", "4.png"):
        (folder / "photos" / name).write_bytes(b"not a picture")
    result = run(folder, tiny_loss_weights, "--num-photos", 2, "--evaluations", "1", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)
    assert [photo["photo"] for photo in report["photos"]] == ["0.png", "3.png"]
    assert "damaged: 1, the first" in result.stderr  # 4.png was never opened
    assert len(result.stderr.strip().splitlines()) == 1
    result = run(folder, tiny_loss_weights, "--evaluations", "1", "--json", "--quiet")
    (report,) = json.loads(result.stdout)
    assert [photo["photo"] for photo in report["photos"]] == ["0.png", "1.png", "3.png"]
    assert "damaged: 2, the first" in result.stderr


def test_photographs_that_are_all_damaged_are_an_error(folder, tiny_loss_weights):
    for path in (folder / "photos").iterdir():
        path.write_bytes(b"not a picture")
    result = run(folder, tiny_loss_weights)
    assert result.exit_code == 3
    assert "must hold a picture that can be read, got 5 others" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_networks_for_any_painting_need_some(folder, tiny_loss_weights, monkeypatch):
    monkeypatch.setattr("impasto.training.evaluate_cli._open_checkpoint", lambda path, device: opened_any())
    result = run(folder, tiny_loss_weights, paintings=None)
    assert result.exit_code == 2
    assert "--paintings must be a folder" in result.stderr


def opened_any():
    return OpenedStyle("any", "fast", "", {}, lambda picture: picture, "numpy", like=lambda painting: lambda x: x)


def test_the_command_prints_json_alone(folder, tiny_loss_weights):
    result = run(folder, tiny_loss_weights, "--num-photos", 1, "--gatys-start", "noise", "--json")
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)
    assert (report["name"], report["gatys_start"]) == ("blobs", "noise")


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (["--evaluations", "a,b"], 2, "--evaluations must be numbers"),
        (["--sheet", "sheet.txt"], 2, "must end in one of .jpg"),
        (["--gatys-device", "warp"], 3, "device must be one that torch can use here"),
        (["--loss-weights", "none.pth"], 3, "not found: none.pth"),
    ],
)
def test_bad_options_get_one_line_and_a_code(folder, tiny_loss_weights, change, code, text):
    result = run(folder, tiny_loss_weights, *change)
    assert result.exit_code == code
    assert text in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_wrong_style_is_said_before_anything_is_fetched(folder, tiny_loss_weights):
    result = run(folder, tiny_loss_weights, "none.onnx", "--loss-weights", "none.pth")
    assert result.exit_code == 3
    assert "none.onnx" in result.stderr
    assert "none.pth" not in result.stderr


def test_checkpoint_painter_is_the_network():
    torch.manual_seed(0)
    network = build_network(NetworkConfig("fast", width=4, blocks=1)).eval()
    picture = blobs(0)
    with torch.no_grad():
        wanted = network(torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float())[0]
    assert np.array_equal(
        checkpoint_painter(network)(picture), wanted.clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    )


@pytest.mark.usefixtures("windows_names")
@pytest.mark.parametrize("name", ["Blätter.png", "Blätter.JPG"])
def test_a_sheet_may_have_any_name(tmp_path, name):
    sheet = contact_sheet([[("blobs", blobs(1))]])
    write_picture(tmp_path / name, sheet)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert read_picture(tmp_path / name).shape == sheet.shape
