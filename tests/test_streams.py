"""Sound, subtitles, chapters, attachments and tags across containers, and `verify` that judges them."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from impasto.export.artifact import Artifact
from impasto.realtime.copy_streams import Span, StreamCopier, moved_time_code
from impasto.realtime.errors import SinkError
from impasto.realtime.output_file import OutputFile
from impasto.realtime.verify import verify
from impasto.realtime.video import stylize_video

MakeClip = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("plain_engine")


def add_sound(
    container: av.container.OutputContainer, codec: str, seed: int, *, layout: str = "mono", rate: int = 44_100,
    **tags: str,
) -> Callable[[], None]:  # fmt: skip
    stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
    stream.metadata.update(tags)

    def write() -> None:
        rng = np.random.default_rng(seed)
        samples = rng.normal(0, 0.1, (1, 44_100)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="flt" if codec.startswith("pcm") else "fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        resampler = av.AudioResampler(
            stream.format, stream.layout, stream.rate, stream.codec_context.frame_size or None
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))

    return write


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of Matroska with two sound tracks, subtitles, chapters, a font and tags."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    with av.open(str(path), "w") as container:
        container.metadata.update(title="My film", artist="Somebody")
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sounds = [add_sound(container, "aac", 1, language="ger"), add_sound(container, "flac", 2, language="eng")]
        subtitles = container.add_mux_stream("subrip")
        subtitles.metadata["language"] = "fra"
        subtitles.time_base = Fraction(1, 1000)
        container.add_attachment("font.ttf", "application/x-truetype-font", b"not really a font")
        container.set_chapters(
            [
                {
                    "id": n,
                    "start": n * 500,
                    "end": n * 500 + 500,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": t},
                }
                for n, t in enumerate(["One", "Two"])
            ]
        )
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 9, np.uint8)).reformat(format="yuv420p")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for write in sounds:
            write()
        for start, text in ((200, "Hello there"), (600, "Second line")):
            packet = av.Packet(text.encode())
            packet.pts = packet.dts = start
            packet.duration, packet.time_base, packet.stream = 300, Fraction(1, 1000), subtitles
            container.mux_one(packet)
    return path


def test_everything_comes_over_where_the_container_takes_it(
    film: Path, identity_artifact: Artifact, tmp_path: Path
) -> None:
    stylize_video(film, tmp_path / "out.mkv", style=identity_artifact.path, segment_frames=10)
    assert verify(film, tmp_path / "out.mkv") == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        kinds = [(s.type, s.metadata.get("language")) for s in container.streams]
        assert kinds == [
            ("video", None), ("audio", "ger"), ("audio", "eng"), ("subtitle", "fra"), ("attachment", None)
        ]  # fmt: skip
        assert [c["metadata"]["title"] for c in container.chapters()] == ["One", "Two"]
        assert (container.metadata["title"], container.metadata["ARTIST"]) == ("My film", "Somebody")


def test_mp4_gets_its_own_subtitles_and_says_what_is_left_out(
    film: Path, identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stylize_video(film, tmp_path / "out.mp4", style=identity_artifact.path)
    assert "rewritten as mov_text" in caplog.text
    assert "font.ttf left out" in caplog.text
    with av.open(str(tmp_path / "out.mp4")) as container:
        subtitles = container.streams.subtitles[0]
        assert subtitles.metadata["language"] == "fra"
        texts = [(float(p.pts * p.time_base), bytes(p)[2:]) for p in container.demux(subtitles) if p.size > 2]
    assert texts == [(0.2, b"Hello there"), (0.6, b"Second line")]
    differences = verify(film, tmp_path / "out.mp4")
    assert [line.split(":")[0] for line in differences] == ["subtitle track 0", "attachments"]


def test_sound_that_a_container_does_not_take_is_encoded_anew(
    film: Path, identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stylize_video(film, tmp_path / "out.webm", style=identity_artifact.path)
    assert caplog.text.count("encoded anew as libopus") == 2
    with av.open(str(tmp_path / "out.webm")) as container:
        names = [s.codec_context.name for s in container.streams.audio]
        seconds = [sum(f.samples for f in container.decode(audio=0)) / 48_000]
    assert names == ["opus", "opus"]
    assert seconds == [pytest.approx(1.0, abs=0.05)]


@pytest.fixture
def make_film(tmp_path: Path) -> Callable[..., Path]:
    """Write a second of film with one sound track."""

    def make(name: str, codec: str, *, layout: str = "mono", rate: int = 44_100, video_codec: str = "mpeg4") -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            video = container.add_stream(video_codec, rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            write_sound = add_sound(container, codec, 1, layout=layout, rate=rate)
            for number in range(25):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 9, np.uint8)).reformat(
                    format="yuv420p"
                )
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            write_sound()
        return tmp_path / name

    return make


def sound_of(path: Path) -> tuple[str, int, float]:
    """Codec, channels and seconds of the first sound track."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(stream))
        context = stream.codec_context
        return context.codec.canonical_name, context.layout.nb_channels, samples / context.sample_rate


@pytest.mark.parametrize(
    ("name", "codec", "layout", "suffix", "written", "channels"),
    [
        ("camera.avi", "pcm_s16le", "stereo", ".mp4", "pcm_s16le", 2),  # AVI names no layout, MP4 must
        ("camera.avi", "pcm_u8", "mono", ".mp4", "aac", 1),
        ("studio.mov", "pcm_s16le", "downmix", ".mp4", "aac", 2),  # a layout that MP4 has no code for
        ("disc.mkv", "ac3", "5.1(side)", ".webm", "opus", 6),  # Opus knows 5.1 with rear loudspeakers only
        ("disc.mkv", "flac", "3.1", ".webm", "opus", 2),
        ("web.mkv", "flac", "stereo", ".mov", "aac", 2),  # FFmpeg lists it for MOV, its muxer refuses it
        ("web.mkv", "libopus", "stereo", ".mov", "aac", 2),
        ("phone.mov", "pcm_mulaw", "mono", ".mkv", "flac", 1),
        ("phone.mov", "alac", "stereo", ".nut", "flac", 2),
    ],
)
def test_sound_survives_every_container(
    name: str, codec: str, layout: str, suffix: str, written: str, channels: int,
    make_film: Callable[..., Path], identity_artifact: Artifact, tmp_path: Path,
) -> None:  # fmt: skip
    film = make_film(name, codec, layout=layout, rate=48_000)
    stylize_video(film, tmp_path / f"out{suffix}", style=identity_artifact.path)
    assert sound_of(tmp_path / f"out{suffix}") == (written, channels, pytest.approx(1.0, abs=0.1))


def test_sound_at_a_rate_that_the_encoder_lacks(
    make_film: Callable[..., Path], identity_artifact: Artifact, tmp_path: Path
) -> None:
    film = make_film("studio.mkv", "flac", rate=192_000)
    stylize_video(film, tmp_path / "out.mov", style=identity_artifact.path)
    assert sound_of(tmp_path / "out.mov") == ("aac", 1, pytest.approx(1.0, abs=0.1))


def test_sound_whose_channels_change_on_the_way(
    make_film: Callable[..., Path], identity_artifact: Artifact, tmp_path: Path
) -> None:
    """As in a recording where one programme follows another."""
    first, second = make_film("first.mkv", "ac3", layout="stereo"), make_film("second.mkv", "ac3", layout="5.1(side)")
    with av.open(str(tmp_path / "both.mkv"), "w") as joined:
        streams: list[av.stream.Stream] = []
        for number, path in enumerate([first, second]):
            with av.open(str(path)) as part:
                streams = streams or [joined.add_stream_from_template(stream) for stream in part.streams]
                for packet in part.demux():
                    if packet.dts is not None and (number == 0 or packet.stream_index == 1):
                        packet.pts = packet.dts = packet.dts + number * 1000
                        packet.stream = streams[packet.stream_index]
                        joined.mux_one(packet)
    stylize_video(tmp_path / "both.mkv", tmp_path / "out.webm", style=identity_artifact.path)
    assert sound_of(tmp_path / "out.webm") == ("opus", 2, pytest.approx(2.0, abs=0.1))


def test_a_track_that_is_announced_but_empty_is_left_out(
    make_film: Callable[..., Path], identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = make_film("film.mkv", "aac", video_codec="mpeg2video")
    with av.open(str(film)) as before, av.open(str(tmp_path / "tv.ts"), "w") as after:
        streams = [after.add_stream_from_template(stream) for stream in before.streams]
        after.add_stream_from_template(before.streams.audio[0])
        for packet in before.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                after.mux_one(packet)
    stylize_video(tmp_path / "tv.ts", tmp_path / "out.mp4", style=identity_artifact.path)
    assert "audio stream 2 left out" in caplog.text
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.audio) == 1
    assert not any("audio" in line for line in verify(tmp_path / "tv.ts", tmp_path / "out.mp4"))


def test_a_file_that_cannot_be_finished_says_why(make_film: Callable[..., Path], tmp_path: Path) -> None:
    film = make_film("camera.avi", "pcm_s16le", layout="stereo")
    with av.open(str(film)) as before:
        file = OutputFile(tmp_path / "out.mp4", time_base=Fraction(1, 25))
        stream = file.container.add_stream_from_template(before.streams.audio[0])
        for packet in before.demux(before.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.container.mux_one(packet)
        with pytest.raises(SinkError, match="unsupported channel layout 2 channels"):
            file.__exit__(None, None, None)


def test_a_container_without_sound_says_so_once(
    film: Path, identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stylize_video(film, tmp_path / "out.gif", style=identity_artifact.path)
    assert caplog.text.count("left out: gif takes no sound") == 2
    assert "encoded anew" not in caplog.text


def test_a_part_takes_its_sound_subtitles_and_chapters_along(
    film: Path, identity_artifact: Artifact, tmp_path: Path
) -> None:
    stylize_video(
        film, tmp_path / "out.mkv", style=identity_artifact.path, start=Fraction(2, 5), end=Fraction(4, 5)
    )  # fmt: skip
    with av.open(str(tmp_path / "out.mkv")) as container:
        times = {
            kind: [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]
            for kind, stream in (("video", container.streams.video[0]), ("audio", container.streams.audio[0]))
            if container.seek(0) is None
        }
        container.seek(0)
        subtitles = [
            (float(p.pts * p.time_base), float(p.duration * p.time_base), bytes(p))
            for p in container.demux(container.streams.subtitles[0])
            if p.size
        ]
        assert [(c["start"] // 10**6, c["end"] // 10**6) for c in container.chapters()] == [(0, 100), (100, 400)]
    assert sorted(times["video"]) == pytest.approx([n / 25 for n in range(10)])
    assert 0 <= min(times["audio"]) < 0.03
    assert 0.36 < max(times["audio"]) < 0.4
    assert subtitles == [(0.0, 0.1, b"Hello there"), (0.2, 0.2, b"Second line")]


class Counted(io.BytesIO):
    """A file that knows how much of it was read."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


@pytest.mark.parametrize("has_subtitles", [False, True])
def test_a_part_is_not_read_beyond_its_end(has_subtitles: bool) -> None:
    """Of a live input, the rest never comes to an end."""
    data = Counted()
    with av.open(data, "w", format="matroska") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        subtitles = container.add_mux_stream("subrip")
        for number in range(600):
            for stream in [sound, subtitles] if number == 0 and has_subtitles else [sound]:
                packet = av.Packet(bytes(1600))
                packet.pts = packet.dts = number * 100
                packet.duration, packet.time_base, packet.stream = 100, Fraction(1, 1000), stream
                container.mux_one(packet)
    data.seek(0)
    with av.open(data) as container, av.open(io.BytesIO(), "w", format="matroska") as output:
        copier = StreamCopier(container, span=Span(end=Fraction(5)))
        data.count = 0
        copier.attach(output)
        copier.copy_until(output, None)
    assert data.count < len(data.getvalue()) / 2


@pytest.fixture
def covered(make_film: Callable[..., Path], tmp_path: Path) -> Path:
    """Picture, a second picture, sound and a cover, in MP4."""
    jpeg = av.CodecContext.create("mjpeg", "w")
    jpeg.width, jpeg.height, jpeg.pix_fmt, jpeg.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    (picture,) = jpeg.encode(av.VideoFrame(32, 32, "yuvj420p"))
    path = tmp_path / "covered.mp4"
    with av.open(str(make_film("film.mp4", "aac"))) as before, av.open(str(path), "w") as after:
        streams = [after.add_stream_from_template(stream) for stream in before.streams]
        second = after.add_stream_from_template(before.streams.video[0])
        cover = after.add_stream("mjpeg", width=32, height=32)
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        picture.stream, picture.pts, picture.dts = cover, 0, 0
        after.mux_one(picture)
        for packet in before.demux():
            if packet.dts is not None:
                for target in [streams[packet.stream_index], *([second] if packet.stream_index == 0 else [])]:
                    packet.stream = target
                    after.mux_one(packet)
    return path


def covers_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        covers = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
        return [bytes(packet) for packet in container.demux(covers) if packet.size]


def test_a_cover_comes_over(
    covered: Path, identity_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To MP4 and Matroska, back from there, beside a part of the film, and out of a pipe."""
    style = identity_artifact.path
    (picture,) = covers_of(covered)
    stylize_video(covered, tmp_path / "out.mp4", style=style)
    stylize_video(covered, tmp_path / "out.mkv", style=style)
    stylize_video(tmp_path / "out.mkv", tmp_path / "part.mp4", style=style, start=Fraction(1, 2))
    with (tmp_path / "out.mkv").open("rb") as pipe:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=pipe))
        stylize_video("-", tmp_path / "piped.mkv", style=style)
    for name in ("out.mp4", "out.mkv", "part.mp4", "piped.mkv"):
        assert covers_of(tmp_path / name) == [picture], name
        with av.open(str(tmp_path / name)) as container:
            assert len(container.streams.audio) == 1
    assert verify(covered, tmp_path / "out.mp4") == []
    assert not any("cover" in line for line in verify(covered, tmp_path / "out.mkv"))


def test_a_cover_and_a_second_picture_that_are_lost_are_named(
    covered: Path, identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stylize_video(covered, tmp_path / "out.mov", style=identity_artifact.path)
    assert "video stream 2 left out" in caplog.text
    assert "cover picture 3 left out: mov has none" in caplog.text
    assert verify(covered, tmp_path / "out.mov") == ["cover tracks: 1 in the input, 0 in the output"]


@pytest.fixture(scope="module")
def pair(film: Path, identity_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "out.mkv"
    stylize_video(film, out, style=identity_artifact.path)
    return out


class TestVerify:
    """Every kind of harm must be seen."""

    @pytest.mark.parametrize(
        ("harm", "word"),
        [
            ("drop-frame", "frames: 25 in the input, 24"),
            ("late-frame", "frame 7: shown at"),
            ("flip-sound", "packets are the same"),
            ("drop-sound", "audio tracks: 2 in the input, 1"),
            ("drop-subtitles", "subtitle tracks: 1 in the input, 0"),
            ("drop-chapters", "chapters: 2 in the input, 0"),
            ("drop-tags", "tag title"),
        ],
    )
    def test_harm_is_named(self, film: Path, pair: Path, tmp_path: Path, harm: str, word: str) -> None:
        harmed = tmp_path / "harmed.mkv"
        remux_with(pair, harmed, harm)
        assert any(word in line for line in verify(film, harmed)), verify(film, harmed)

    def test_no_harm_is_no_difference(self, film: Path, pair: Path, tmp_path: Path) -> None:
        remux_with(pair, tmp_path / "same.mkv", "none")
        assert verify(film, tmp_path / "same.mkv") == []


def remux_with(source: Path, target: Path, harm: str) -> None:
    dropped = {"drop-sound": 2, "drop-subtitles": 3}.get(harm)
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        streams = {}
        for stream in before.streams:
            if stream.type == "attachment":
                after.add_attachment(stream.metadata["filename"], stream.mimetype, stream.data)
            elif stream.index != dropped:
                streams[stream.index] = after.add_stream_from_template(stream)
                streams[stream.index].metadata.update(stream.metadata)
        if harm != "drop-tags":
            after.metadata.update(before.metadata)
        if harm != "drop-chapters":
            after.set_chapters(before.chapters())
        shown = 0
        for packet in before.demux([s for s in before.streams if s.index in streams]):
            if packet.pts is None:
                continue
            is_video = packet.stream_index == 0
            frame = round(packet.pts * packet.time_base * 25) if is_video else -1
            if harm == "drop-frame" and is_video and shown == 24:
                continue
            shown += is_video
            if harm == "late-frame" and frame == 7:
                packet.pts += 5
            if harm == "flip-sound" and packet.stream_index == 1 and packet.pts * packet.time_base > 0.5:
                data = bytearray(bytes(packet))
                data[len(data) // 2] ^= 1
                flipped = av.Packet(bytes(data))
                flipped.pts, flipped.dts, flipped.time_base = packet.pts, packet.dts, packet.time_base
                flipped.duration, flipped.is_keyframe = packet.duration, True
                flipped.stream = packet.stream
                packet, harm = flipped, "done"
                packet.stream = streams[1]
            else:
                packet.stream = streams[packet.stream_index]
            after.mux_one(packet)


@pytest.mark.parametrize(
    ("code", "frames", "rate", "expected"),
    [
        ("01:00:59:20", 15, Fraction(25), "01:01:00:10"),
        ("01:00:59;20", 15, Fraction(30000, 1001), "01:01:00;07"),  # ;00 and ;01 of this minute do not exist
        ("01:09:59;20", 15, Fraction(30000, 1001), "01:10:00;05"),  # of a tenth they do
        ("01:00:59;50", 15, Fraction(60000, 1001), "01:01:00;09"),
        ("23:59:59:23", 1, Fraction(24000, 1001), "00:00:00:00"),
        ("00:00:00;00", 107_892, Fraction(30000, 1001), "01:00:00;00"),  # what the dropping is for
        ("next Tuesday", 1, Fraction(25), None),
    ],
)
def test_a_time_code_counts_frames(code: str, frames: int, rate: Fraction, expected: str | None) -> None:
    assert moved_time_code(code, frames, rate) == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_time_code_of_a_part_is_that_of_its_first_picture(
    identity_artifact: Artifact, tmp_path: Path, suffix: str
) -> None:
    clip, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["timecode"] = "10:00:00:20"
        for level in range(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8))))
        container.mux(stream.encode(None))
    for start, expected in ((None, "10:00:00:20"), (Fraction("0.4"), "10:00:01:05"), (Fraction("0.41"), "10:00:01:06")):
        stylize_video(clip, out, style=identity_artifact.path, start=start, overwrite=True)
        with av.open(str(out)) as container:
            tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
            assert tags["timecode"] == expected


def test_damaged_sound_that_is_encoded_anew_costs_its_packets_only(
    identity_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Apple's decoder says "not implemented" of them."""
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        write_sound = add_sound(container, "alac", 1)
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 9, np.uint8)).reformat(format="yuv420p")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        write_sound()
    with av.open(str(tmp_path / "in.mkv")) as whole, av.open(str(tmp_path / "damaged.mkv"), "w") as container:
        streams = [container.add_stream_from_template(stream, opaque=True) for stream in whole.streams]
        for number, packet in enumerate(packet for packet in whole.demux() if packet.size):
            if packet.stream.type == "audio" and number % 4 == 0:
                junk = av.Packet(np.random.default_rng(number).bytes(packet.size))
                junk.pts, junk.dts, junk.time_base, junk.stream = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                    packet.stream,
                )
                packet = junk
            packet.stream = streams[packet.stream.index]
            container.mux_one(packet)
    stylize_video(tmp_path / "damaged.mkv", tmp_path / "out.webm", style=identity_artifact.path)
    assert "damaged packets of sound or subtitles left out" in caplog.text
    with av.open(str(tmp_path / "out.webm")) as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert 0.5 < seconds < 0.95
