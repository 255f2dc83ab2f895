"""H.264 for outputs that cannot wait: what recordings and network streams share."""

from collections.abc import Mapping
from fractions import Fraction

from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame

from .color import H273_CODES, SD_HEIGHT, YuvWriter
from .frame import Frame, Matrix, StreamInfo

TIME_BASE = Fraction(1, 90_000)
# No look-ahead and no B-frames: both hold pictures back, which costs delay, and which a crash would take along.
ENCODER_OPTIONS = {"preset": "veryfast", "tune": "zerolatency", "bf": "0", "threads": "2"}


class LiveH264:
    """A video stream of a container, and the frames that go into it, timed from the first one on."""

    def __init__(
        self,
        container: OutputContainer,
        info: StreamInfo,
        *,
        keyframe_seconds: Fraction,
        options: Mapping[str, str],
        bits_per_second: int | None = None,
    ) -> None:
        """
        Args:
            container: to add the stream to.
            info: of the frames to come; odd edges lose their last row or column, which H.264 cannot hold.
            keyframe_seconds: most time between two pictures that can be joined at.
            options: of the encoder, beside those for low delay.
            bits_per_second: of the stream; None lets `options` decide.
        """
        self._height, self._width = info.height & ~1, info.width & ~1
        matrix: Matrix = "bt601" if self._height <= SD_HEIGHT else "bt709"
        self.stream = container.add_stream("libx264", rate=info.frame_rate, options={**ENCODER_OPTIONS, **options})
        self.stream.width, self.stream.height, self.stream.pix_fmt = self._width, self._height, "yuv420p"
        if bits_per_second is not None:
            self.stream.bit_rate = bits_per_second
        context = self.stream.codec_context
        self.stream.time_base = context.time_base = TIME_BASE
        context.colorspace = H273_CODES[matrix]
        context.color_primaries = context.color_trc = 6 if matrix == "bt601" else 1
        context.color_range = 1
        self._to_yuv = YuvWriter("yuv420p", matrix)
        self._keyframe_seconds = keyframe_seconds
        self._next_key = Fraction(0)
        self._last_ticks = -1
        self.started: Fraction | None = None
        """Time of the first frame, which is 0 in the stream; None before it came."""

    def picture(self, frame: Frame) -> VideoFrame | None:
        """A frame for the encoder; None for one that is not newer than the last."""
        if self.started is None:
            self.started = frame.pts
        seconds = frame.pts - self.started
        ticks = round(seconds / TIME_BASE)
        if ticks <= self._last_ticks:
            return None
        self._last_ticks = ticks
        picture = self._to_yuv(frame.data[: self._height, : self._width])
        picture.pts, picture.time_base = ticks, TIME_BASE
        if seconds >= self._next_key:
            picture.pict_type = PictureType.I
            self._next_key = seconds + self._keyframe_seconds
        return picture
