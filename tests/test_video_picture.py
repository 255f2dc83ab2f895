"""Pictures of every kind come back as they were: an identity style through a lossless codec, within 2/255.

The reference is FFmpeg's own decoding, turned into RGB by the standards' formulas in numpy, not by our code.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.source_file import Damage, VideoFile
from impasto.realtime.tonemap import HLG, PQ, ToneMapper, light_to_pq, pq_to_light, to_sdr
from impasto.realtime.video import stylize_video

MakeClip = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("plain_engine")
WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def reference_rgb(frame: av.VideoFrame, matrix: int, *, full: bool) -> np.ndarray:
    """(H, W, 3) float in 0…255 of a 4:4:4 frame, by the definition of its matrix and range."""
    bits = frame.format.components[0].bits
    sample = np.dtype("<u2" if bits > 8 else "u1")
    rows = [np.frombuffer(p, sample).reshape(p.height, p.line_size // sample.itemsize) for p in frame.planes]
    planes = np.stack([row[:, : frame.width] for row in rows]).astype(float)
    step = 2.0 ** (bits - 8)
    if full:
        luma, chroma = planes[0] * 255 / (2**bits - 1), (planes[1:] - 128 * step) * 255 / (2**bits - 1)
    else:
        luma, chroma = (planes[0] / step - 16) * 255 / 219, (planes[1:] / step - 128) * 255 / 224
    kr, kb = WEIGHTS[matrix]
    red, blue = luma + (2 - 2 * kr) * chroma[1], luma + (2 - 2 * kb) * chroma[0]
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.stack([red, green, blue], -1).clip(0, 255)


def soft(number: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([30 + 2 * x, 30 + 3 * y, 220 - x - y + 4 * number], -1).clip(10, 245).astype(np.uint8)


def tagged(matrix: int, *, full: bool, primaries: int = 1, transfer: int = 1) -> Callable[[av.VideoStream], None]:
    def prepare(stream: av.VideoStream) -> None:
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, 2 if full else 1
        context.color_primaries, context.color_trc = primaries, transfer

    return prepare


@pytest.mark.parametrize("matrix", [1, 6, 9], ids=["bt709", "bt601", "bt2020"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le"])
def test_identity_returns_the_decoded_input(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, matrix: int, full: bool, pixel_format: str
) -> None:
    clip = make_clip(
        "clip.mkv", codec="ffv1", pixel_format=pixel_format, draw=soft, times=range(0, 120, 40),
        time_base=Fraction(1, 1000), prepare=tagged(matrix, full=full),
    )  # fmt: skip
    stylize_video(clip, tmp_path / "out.mkv", style=identity_artifact.path, codec="ffv1")
    with av.open(str(clip)) as before, av.open(str(tmp_path / "out.mkv")) as after:
        for a, b in zip(before.decode(video=0), after.decode(video=0), strict=True):
            assert (b.colorspace, b.color_range) == (matrix, 1)
            error = np.abs(reference_rgb(a, matrix, full=full) - reference_rgb(b, matrix, full=False))
            assert error.max() <= 2.0


def test_pixel_aspect_is_kept_and_turned_with_the_picture(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path
) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    def prepare_turned(stream: av.VideoStream) -> None:
        prepare(stream)
        stream.set_display_rotation(90)

    for name, made, aspect in (("a", prepare, Fraction(16, 11)), ("b", prepare_turned, Fraction(11, 16))):
        out = tmp_path / f"{name}.mp4"
        stylize_video(make_clip(prepare=made), out, style=identity_artifact.path)
        with av.open(str(out)) as container:
            assert container.streams.video[0].sample_aspect_ratio == aspect
            assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize("flip", ["hflip", "vflip"])
def test_mirrored_clips_come_upright(make_clip: MakeClip, flip: str) -> None:
    path = make_clip(prepare=lambda stream: stream.set_display_rotation(0, **{flip: True}), draw=soft)
    with VideoFile(path) as source:
        picture = next(iter(source)).data.astype(int)
    expected = soft(0, 48, 64)[:, ::-1] if flip == "hflip" else soft(0, 48, 64)[::-1]
    assert np.abs(picture - expected).mean() < 4


def combed(number: int, height: int, width: int) -> np.ndarray:
    """A bar that moves 6 pixels between the two fields."""
    picture = np.full((height, width, 3), 30, np.uint8)
    for field in (0, 1):
        left = 4 + 12 * number + 6 * field
        picture[field::2, left : left + 16] = 220
    return picture


def combing_of(picture: np.ndarray) -> float:
    luma = picture.mean(-1)
    return float(np.abs(luma[1:-1] - (luma[:-2] + luma[2:]) / 2).mean())


def test_interlaced_video_is_deinterlaced_and_said(make_clip: MakeClip, caplog: pytest.LogCaptureFixture) -> None:
    path = make_clip(
        draw=combed, height=96, width=160, times=[512 * n for n in range(8)],
        options={"x264-params": "interlaced=1:tff=1:crf=1"},
    )  # fmt: skip
    combing = {}
    for wanted in (True, False):
        with VideoFile(path, deinterlace=wanted) as source:
            frames = list(source)
        assert [(f.pts, f.duration) for f in frames] == [(Fraction(n, 25), Fraction(1, 25)) for n in range(8)]
        combing[wanted] = combing_of(frames[4].data)
    assert combing[True] < combing[False] / 4
    assert caplog.text.count("interlaced:") == 1


def test_video_may_become_interlaced_and_change_its_size(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As broadcasts do between one programme and the next."""
    path = tmp_path / "broadcast.ts"
    kinds = [("", 96, 160), ("interlaced=1:tff=1:", 96, 160), ("interlaced=1:tff=1:", 192, 320), ("", 96, 160)]
    with path.open("wb") as file:
        for number, (interlaced, height, width) in enumerate(kinds):
            piece = make_clip(
                "piece.ts", draw=combed, height=height, width=width, time_base=Fraction(1, 90_000),
                times=[3600 * (8 * number + n) for n in range(8)],
                options={"x264-params": f"{interlaced}crf=1:bframes=0"},
            )  # fmt: skip
            file.write(piece.read_bytes())
    with VideoFile(path) as source:
        frames = list(source)
    assert [f.pts - frames[0].pts for f in frames] == [Fraction(n, 25) for n in range(32)]
    combing = [combing_of(f.data) for f in frames]
    assert max(combing[8:24]) < min(*combing[:8], *combing[24:]) / 2
    assert caplog.text.count("interlaced:") == 1
    assert source.damage == Damage()


def test_transparency_is_ignored_and_said(make_clip: MakeClip, caplog: pytest.LogCaptureFixture) -> None:
    path = make_clip("clip.mkv", codec="ffv1", pixel_format="yuva444p", draw=soft)
    with VideoFile(path) as source:
        picture = next(iter(source)).data.astype(int)
    assert np.abs(picture - soft(0, 48, 64)).max() <= 3
    assert "transparency" in caplog.text


class TestHdr:
    @pytest.fixture
    def pq_clip(self, make_clip: MakeClip) -> Path:
        return make_clip(
            "hdr.mkv", codec="libx265", pixel_format="yuv420p10le", draw=soft, time_base=Fraction(1, 1000),
            times=range(0, 120, 40), options={"x265-params": "log-level=error:crf=4"},
            prepare=tagged(9, full=False, primaries=9, transfer=16),
        )  # fmt: skip

    def test_it_is_tone_mapped_and_said(
        self, pq_clip: Path, identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stylize_video(pq_clip, tmp_path / "out.mp4", style=identity_artifact.path, crf=1)
        assert "tone-mapped" in caplog.text
        with av.open(str(tmp_path / "out.mp4")) as container:
            frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 1)
        with VideoFile(pq_clip) as source:
            mapped = next(iter(source)).data
        with VideoFile(pq_clip, hdr="keep") as source:
            signal = next(iter(source)).data
        expected = 255 * to_sdr(signal / 255.0, PQ)
        error = np.abs(mapped - expected)
        # 8 bits of the reference's own input, and a table of 65 steps along each edge.
        assert np.percentile(error, 95) < 4
        assert np.percentile(error, 99) < 12  # next to the edge of BT.709 the mapping has a crease

    def test_it_is_kept_when_asked(self, pq_clip: Path, identity_artifact: Artifact, tmp_path: Path) -> None:
        stylize_video(pq_clip, tmp_path / "out.mkv", style=identity_artifact.path, hdr="keep", codec="hevc", crf=4)
        with av.open(str(pq_clip)) as before, av.open(str(tmp_path / "out.mkv")) as after:
            a, b = next(before.decode(video=0)), next(after.decode(video=0))
        assert (b.format.name, b.colorspace, b.color_primaries, b.color_trc) == ("yuv420p10le", 9, 9, 16)
        luma = [np.frombuffer(f.planes[0], "<u2").reshape(48, -1)[:, :64].astype(int) for f in (a, b)]
        assert np.abs(luma[0] - luma[1]).mean() < 8  # of 1023: the picture between them has 8 bits

    def test_a_named_decoder_is_told_the_tags_of_the_container(self, make_clip: MakeClip) -> None:
        clip = make_clip("hdr.mkv", codec="ffv1", pixel_format="yuv420p10le", draw=soft, time_base=Fraction(1, 1000),
                         times=range(0, 120, 40), prepare=tagged(9, full=True, primaries=9, transfer=16))  # fmt: skip
        for hdr in ("sdr", "keep"):
            with VideoFile(clip, hdr=hdr) as source, VideoFile(clip, hdr=hdr, decoder="ffv1") as named:
                assert named.info == source.info
                np.testing.assert_array_equal(next(iter(named)).data, next(iter(source)).data)

    def test_it_may_change_its_size(self) -> None:
        mapper = ToneMapper(PQ)
        for height, width in ((48, 64), (96, 128), (48, 64)):
            frame = av.VideoFrame.from_ndarray(soft(0, height, width), "rgb24").reformat(format="yuv420p10le")
            mapped = mapper(frame)
            assert (mapped.height, mapped.width, mapped.format.name) == (height, width, "rgb24")

    def test_the_curves_are_those_of_the_standard(self) -> None:
        # BT.2100's own anchors: PQ 0.508 is 100 cd/m², 0.581 is 203, 0.752 is 1000; HLG 0.75 is 203.
        np.testing.assert_allclose(light_to_pq(np.array([100.0, 203.0, 1000.0])), [0.508, 0.581, 0.752], atol=5e-4)
        np.testing.assert_allclose(pq_to_light(light_to_pq(np.array([0.1, 50.0, 4000.0]))), [0.1, 50, 4000], rtol=1e-6)
        grey = np.linspace(0, 1, 64)[:, None] * np.ones(3)
        for transfer in (PQ, HLG):
            mapped = to_sdr(grey, transfer)
            assert np.all(np.diff(mapped[:, 0]) >= -1e-9)  # brighter stays brighter
            np.testing.assert_allclose(mapped, mapped[:, :1] * np.ones(3), atol=2e-3)  # grey stays grey
        hlg_white = to_sdr(np.full((1, 3), 0.75), HLG)
        pq_white = to_sdr(light_to_pq(np.full((1, 3), 203.0)), PQ)
        np.testing.assert_allclose(hlg_white, pq_white, atol=0.01)


@pytest.mark.parametrize(
    ("size", "expected"), [("24p", (24, 32)), ("96x32", (32, 96)), ("0.5x", (24, 32)), ("2x", (96, 128))]
)
def test_sizes(
    make_clip: MakeClip, identity_artifact: Artifact, tmp_path: Path, size: str, expected: tuple[int, int]
) -> None:
    stylize_video(make_clip(draw=soft), tmp_path / "out.mp4", style=identity_artifact.path, size=size)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == expected
        shown = Fraction(stream.width, stream.height) * (stream.sample_aspect_ratio or 1)
    assert float(shown) == pytest.approx(64 / 48, rel=0.01)  # the film is not distorted


@pytest.mark.parametrize("size", ["720", "x", "0x0", "1e9p", "-1x", "4p", "99999p"])
def test_impossible_sizes_are_refused(make_clip: MakeClip, size: str) -> None:
    with pytest.raises(ValueError, match="size must"):
        VideoFile(make_clip(), size=size)
