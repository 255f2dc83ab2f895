"""Sound and everything else that is not the picture: carried over packet by packet, bit for bit."""

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from .source_file import open_input

logger = logging.getLogger(__name__)

COPIED_KINDS = ("audio", "subtitle")


class StreamCopier:
    """Reads the other streams of an input and hands their packets over as the picture's clock moves on."""

    def __init__(self, path: str | Path) -> None:
        self._container = open_input(path)
        self._targets: dict[int, Stream] = {}
        self._pending: Packet[Stream] | None = None
        self._packets: Iterator[Packet[Stream]] = iter(())

    def attach(self, output: OutputContainer) -> None:
        """Declare the streams in `output`, before its header is written."""
        for stream in self._container.streams:
            if stream.type not in COPIED_KINDS:
                continue
            try:
                target = output.add_stream_from_template(stream)
            except (ValueError, av.FFmpegError) as exc:
                logger.warning(
                    "%s stream %d left out: %s does not take it (%s)",
                    stream.type, stream.index, output.format.name, exc,
                )  # fmt: skip
                continue
            target.metadata.update(stream.metadata)
            target.disposition = stream.disposition
            self._targets[stream.index] = target
        output.metadata.update(self._container.metadata)
        if self._targets:
            streams = [s for s in self._container.streams if s.index in self._targets]
            self._packets = self._read(streams)

    def copy_until(self, output: OutputContainer, seconds: Fraction | None) -> None:
        """Mux every packet that is due before `seconds`; all that are left if None."""
        while (packet := self._next()) is not None:
            if seconds is not None and _due(packet) > seconds:
                self._pending = packet
                return
            packet.stream = self._targets[packet.stream_index]
            output.mux_one(packet)

    def close(self) -> None:
        self._container.close()

    def _next(self) -> "Packet[Stream] | None":
        packet, self._pending = self._pending, None
        return packet if packet is not None else next(self._packets, None)

    def _read(self, streams: list[Stream]) -> "Iterator[Packet[Stream]]":
        try:
            for packet in self._container.demux(streams):
                if packet.dts is not None or packet.pts is not None:
                    yield packet
        except av.FFmpegError as exc:
            logger.warning("sound and subtitles end early, the input is damaged there: %s", exc)


def _due(packet: "Packet[Stream]") -> Fraction:
    ticks = packet.dts if packet.dts is not None else packet.pts
    return (ticks or 0) * packet.time_base
