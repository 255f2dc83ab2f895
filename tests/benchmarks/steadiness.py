"""How steady the styles are: the table of warping errors over clips and rendered sequences, all styles at once.

    python tests/benchmarks/steadiness.py CLIPS… [--styles DIR] [--plain DIR] [--rendered DIR] [--frames 30]

For every style in `--styles` (NAME.fast.onnx): the network itself, by a naive average over time, smoothed, and where
`--plain` holds an artifact of the same name, that one too: the same network trained with `--motion-weight 0`. E is the
warping error of `impasto stability` ×10⁻³, far the same over 10 frames, pulse the change of the mean luminance from
frame to frame of 255. Means over clips; `true` is by ground-truth motion, over the rendered sequences.
"""

import argparse
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import fmean

from impasto.assets import installed_styles
from impasto.export.artifact import load_artifact
from impasto.realtime.engine_carried import CarriedEngine, load_carried_engine
from impasto.realtime.engine_choice import load_engine
from impasto.realtime.frame import Frame, Picture
from impasto.realtime.smoothing import Smoother
from impasto.realtime.source_file import VideoFile
from impasto.realtime.stability import (
    Contestant,
    NaiveAverage,
    PictureFolder,
    Steadiness,
    mean_error,
    measure,
    true_motion_from,
)
from impasto.realtime.stylizer import Stylizer

INPUT = "input"
NAIVE_KEPT = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--styles", type=Path, help="folder of artifacts; default: the installed styles")
    parser.add_argument("--plain", type=Path, help="folder of the same networks without the steadiness term")
    parser.add_argument("--only", nargs="+", help="names of styles")
    parser.add_argument("--rendered", type=Path, help="folder with sequences and their ground truth")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", default="360p")
    parser.add_argument("--smooth", type=float, nargs="+", default=[0.8])
    parser.add_argument("--normalization", nargs="*", default=[], help="also carried, frozen (to the first frame)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    engines = {name: load_engine(path, device="cpu") for name, path in artifacts(given).items()}
    for name, path in artifacts(given).items():
        for kind in given.normalization if not name.endswith(" plain") else []:
            engines[f"{name} {kind}"] = load_carried_engine(load_artifact(path), kind, device="cpu")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for clip in given.clips:
        with VideoFile(clip, size=given.size) as video:
            measured = measure(clip.name, islice(iter(video), given.frames), contestants(engines, given.smooth))
        results[clip.name] = {name: figures(found) for name, found in measured.contestants.items()}
        show(clip.name, {clip.name: results[clip.name]})
    rendered = {}
    for name, source, truth in sequences(given.rendered):
        found = measure(name, source, contestants(engines, given.smooth), true_motion=truth).contestants
        rendered[name] = {contestant: figures(steadiness) for contestant, steadiness in found.items()}
    for title, table in ((f"{len(results)} clips", results), (f"{len(rendered)} rendered sequences", rendered)):
        if table:
            show(title, table)
    if given.json:
        given.json.write_text(json.dumps({"clips": results, "rendered": rendered}, indent=1))


def artifacts(given: argparse.Namespace) -> dict[str, Path]:
    """Artifacts by name; those of `--plain` as "NAME plain"."""
    if given.styles is None:
        found = {name: tiers["fast"] for name, tiers in installed_styles().items() if "fast" in tiers}
    else:
        found = {path.name.removesuffix(".fast.onnx"): path for path in sorted(given.styles.glob("*.fast.onnx"))}
    found = {name: path for name, path in found.items() if not given.only or name in given.only}
    plain = {} if given.plain is None else {f"{p.name.split('.')[0]} plain": p for p in given.plain.glob("*.onnx")}
    return found | {name: path for name, path in plain.items() if name.removesuffix(" plain") in found}


def contestants(engines, amounts: list[float]) -> list[Contestant]:
    found = [Contestant(INPUT, lambda frame: frame.data)]
    for name, engine in engines.items():
        if isinstance(engine, CarriedEngine):
            engine.reset()
        once = Once(Stylizer(engine))
        found.append(Contestant(name, once))
        if not name.endswith(" plain"):
            if not isinstance(engine, CarriedEngine):
                found.append(Contestant(f"{name} naive", averaged(once)))
            found += [Contestant(f"{name} smooth {amount:g}", smoothed(once, amount)) for amount in amounts]
    return found


class Once:
    """Paints a frame for several contestants once."""

    def __init__(self, stylizer: Stylizer) -> None:
        self._stylizer = stylizer
        self._last: tuple[Frame, Picture] | None = None

    def __call__(self, frame: Frame) -> Picture:
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._stylizer(frame).data
        return self._last[1]


def averaged(once: Once) -> Callable[[Frame], Picture]:
    average = NaiveAverage(NAIVE_KEPT)
    return lambda frame: average(once(frame))


def smoothed(once: Once, amount: float) -> Callable[[Frame], Picture]:
    smoother = Smoother(amount)
    return lambda frame: smoother(frame.data, once(frame))


def sequences(folder: Path | None):
    """Every rendered sequence with ground truth in folders like `alley_1`: name, source, motion."""
    for flow in sorted(folder.rglob("flow_*.npz")) if folder else []:
        if flow != sorted(flow.parent.glob("flow_*.npz"))[0]:
            continue
        for kind in ("clean", "final"):
            pictures = PictureFolder(flow.parent, f"*{kind}*")
            yield f"{flow.parent.name} {kind}", pictures, true_motion_from(flow.parent, pictures.numbers)


def figures(found: Steadiness) -> dict[str, float]:
    return {
        "E": mean_error(found.near) * 1e3,
        "far": mean_error(found.far) * 1e3,
        "true": mean_error(found.true) * 1e3,
        "pulse": found.pulse,
    }


def show(title: str, table: dict[str, dict[str, dict[str, float]]]) -> None:
    names = list(next(iter(table.values())))
    means = {
        name: {key: mean([clip[name][key] for clip in table.values()]) for key in ("E", "far", "true", "pulse")}
        for name in names
    }
    print(f"\n{title:34}{'E':>8}{'far':>8}{'true':>8}{'pulse':>8}{'× input':>9}{'× plain':>9}{'× trained':>10}")
    for name, row in means.items():
        style = name.split(" ")[0]
        against = [means[INPUT]["E"], means.get(f"{style} plain", {}).get("E"), means[style]["E"]]
        print(
            f"{name:34}"
            + "".join(f"{row[key]:8.2f}" for key in ("E", "far", "true", "pulse"))
            + "".join(f"{row['E'] / other:9.2f}" if other else f"{'-':>9}" for other in against),
            flush=True,
        )


def mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")


if __name__ == "__main__":
    main()
