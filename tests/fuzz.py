"""Feed broken files to the two parsers that read what strangers wrote: the artifact loader and the timeline parser.

    python tests/fuzz.py artifact --minutes 60
    python tests/fuzz.py timeline --minutes 60 --seed 7

Whatever they are given, they answer or raise an `ArtifactError` of one line, within seconds. The case that is being
tried lies in a file that is named at the start, so that even a crash of the interpreter leaves it behind; the seed
makes every run repeatable. `tests/test_fuzz.py` runs both for a moment in the suite.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from impasto.export.artifact import Metadata, _digest_entry, load_artifact, seal
from impasto.export.errors import ArtifactError
from impasto.realtime.look import load_timeline

MOST_SECONDS = 20.0
"""For one case, on a busy machine; an honest artifact takes 10 ms."""
CUES = """
[[cue]]
at = "0:05"
style = "mosaic"

[[cue]]
at = 7.5
style = "mosaic:0.5,udnie:0.5"
strength = 0.3
fade = "1.5"
"""
WORDS = (
    "[[cue]]", "[cue]", "at", "fade", "strength", "style", "=", "\n", '"', "'", '"""', "-1", "1e999", "nan", "inf",
    "0x1F", "1/2", ":", "::", ":-1", "99:99:99", "[", "]", "{}", "true", "1979-05-27", "\x00", "é", "🎨", ",", "0", "#",
    "a.b.c", "9" * 400,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    case = Path(tempfile.mkdtemp(prefix="impasto-fuzz-")) / f"case.{given.target}"
    print(f"the case being tried is {case}", flush=True)
    end, accepted, count = time.monotonic() + 60 * given.minutes, 0, 0
    for was_accepted in TARGETS[given.target](random.Random(given.seed), case):
        accepted += was_accepted
        count += 1
        if count % 1000 == 0:
            print(f"{count} cases, {accepted} accepted", flush=True)
        if time.monotonic() > end:
            break
    print(f"{count} cases, {accepted} accepted, none got through unrefused")


def artifacts(rng: random.Random, case: Path) -> Iterator[bool]:
    """Try damaged artifacts for ever; yields whether each was accepted."""
    model = small_model()
    whole = seal(model, Metadata(name="fuzz", tier="fast", stride=2))
    while True:
        if rng.random() < 0.5:
            damaged = onnx.ModelProto()
            damaged.CopyFrom(onnx.ModelProto.FromString(whole[: -len(_digest_entry(b""))]))
            for _ in range(rng.randint(1, 3)):
                change_message(rng, damaged)
            body = damaged.SerializeToString()
        else:
            body = change_bytes(rng, whole[: -len(_digest_entry(b""))])
        # Most get a right closing sum: malice would, and the checks behind it are what is to be tried.
        case.write_bytes(body + (_digest_entry(body) if rng.random() < 0.9 else whole[-len(_digest_entry(b"")) :]))
        yield answers(lambda: load_artifact(case))


def timelines(rng: random.Random, case: Path) -> Iterator[bool]:
    """Try damaged timelines for ever; yields whether each was accepted."""
    while True:
        text = CUES * rng.randint(0, 2)
        for _ in range(rng.randint(1, 6)):
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(WORDS) + text[at + rng.choice((0, 0, 1, 5)) :]
        data = text.encode("utf-8", "surrogatepass")
        case.write_bytes(change_bytes(rng, data) if rng.random() < 0.2 else data)

        def parse() -> None:
            look = load_timeline(case, style="great-wave", strength=0.9)
            for seconds in (0.0, 4.99, 5.0, 7.6, 1e6):
                mix = look.mix(seconds)
                if not all(0 <= share <= 1 for share in mix.values()) or sum(mix.values()) > 1 + 1e-6:
                    raise AssertionError(f"shares must be a mix, got {mix} at {seconds}")

        yield answers(parse)


def answers(parse: Callable[[], object]) -> bool:
    """Whether the case was accepted; any other end than an `ArtifactError` of one line is let through."""
    begun = time.monotonic()
    try:
        parse()
        accepted = True
    except ArtifactError as exc:
        accepted = False
        if len(str(exc).splitlines()) != 1 or len(str(exc)) > 2000:
            raise AssertionError(f"an error must be one line, got {str(exc)[:3000]!r}") from exc
    if time.monotonic() - begun > MOST_SECONDS:
        raise AssertionError(f"an answer must come within {MOST_SECONDS} s, took {time.monotonic() - begun:.0f} s")
    return accepted


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, removed, doubled, or the rest cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4, 32))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(5):
            case 0:
                changed[at : at + length] = rng.randbytes(len(changed[at : at + length]))
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                changed[at:at] = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * length
            case _ if rng.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def change_message(rng: random.Random, message: object) -> None:
    """Change one field of a protobuf message, somewhere inside it, to something of its type."""
    fields = [(field, value) for field, value in message.ListFields()]  # type: ignore[attr-defined]
    if not fields:
        return
    field, value = rng.choice(fields)
    repeated = getattr(value, "append", None) or getattr(value, "add", None)
    if field.message_type is not None:
        child = rng.choice(value) if repeated and len(value) else value
        if repeated and len(value) and rng.random() < 0.15:
            if rng.random() < 0.5:
                del value[rng.randrange(len(value))]
            else:
                value.add().CopyFrom(child)
        elif not repeated or len(value):
            change_message(rng, child)
        return
    with suppress(ValueError):  # protobuf itself refuses numbers out of range
        if repeated:
            value[rng.randrange(len(value))] = strange(rng, value[0])
        else:
            setattr(message, field.name, strange(rng, value))


def strange(rng: random.Random, value: object) -> object:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((0, 1, 2, 7, 255, 2**20, 2**31 - 1)) * (1 if rng.random() < 0.9 else -1)
        case float():
            return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
        case bytes():
            return change_bytes(rng, value)
        case str():
            operators = ("Loop", "If", "Gather", "Reshape", "Expand", "Pad", "Resize", "Constant", "Conv")
            return rng.choice((*operators, "", "x", value[:-1], value + "\u202e", "../../x", "a" * 3000))
    return value


def small_model() -> onnx.ModelProto:
    """A network in miniature with the kinds of nodes, attributes and tensors that artifacts have."""
    weights = {
        "down": np.zeros((4, 3, 3, 3), np.float16), "scale": np.ones(4, np.float32), "shift": np.zeros(4, np.float32),
        "up": np.zeros((4, 3, 4, 4), np.float32), "low": np.float32(0), "high": np.float32(255),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["down"], ["down.float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "down.float"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("InstanceNormalization", ["a", "scale", "shift"], ["b"], epsilon=1e-5),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("ConvTranspose", ["c", "up"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["y", "low", "high"], ["z"]),
        helper.make_node("Cast", ["z"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["stylized"], perm=[0, 2, 3, 1]),
    ]
    shape = ["n", "h", "w", 3]
    graph = helper.make_graph(
        nodes,
        "stylize",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("stylized", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


TARGETS: dict[str, Callable[[random.Random, Path], Iterator[bool]]] = {"artifact": artifacts, "timeline": timelines}


if __name__ == "__main__":
    main()
