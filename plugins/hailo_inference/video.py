"""Cameras, streams and video files to frames: the one file that knows PyAV (FFmpeg).

A `Film` reads in the calling thread, which is one of its own: opening and reading block. It gives every frame that is
due to whoever asked; nothing is kept here. Only the protocols that a source of its kind needs may be used, so that a
playlist from a stranger cannot make FFmpeg open files.
"""

from __future__ import annotations

import math
import threading  # noqa: TID251 - decoding blocks, in a thread of its own; this is how it is told to stop
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparkd import DeviceError

from .picture import Pixels, RawPicture
from .preprocess import Placement
from .source_config import SourceConfig

OPEN_S = 10.0
STREAM_PROTOCOLS = "rtsp,rtp,rtcp,srtp,udp,tcp,http,https,httpproxy,tls,crypto"
INTRA = {"mjpeg", "rawvideo"}
"""Codecs whose frames stand for themselves: one that is not due need not be decoded."""
BAD_IN_A_ROW = 100
CHECK_CABLE = "check that it is switched on and connected, and that `location` is right; it is tried again by itself"


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """A decoded frame, not yet converted: only what is looked at costs that."""

    width: int
    height: int
    seen_ns: int
    decode_ms: float
    _frame: Any

    def fitted(self, placement: Placement, *, sharp: bool = False) -> Pixels:
        """Return what *placement* wants of the frame, scaled. Raises ValueError if it cannot be converted."""
        if placement.window is not None:
            return RawPicture(self.whole()).fitted(placement, sharp=sharp)
        return self._rgb(placement.width, placement.height, "BICUBIC" if sharp else "BILINEAR")

    def whole(self) -> Pixels:
        """Return all its pixels, RGB. Raises ValueError if it cannot be converted."""
        return self._rgb(self.width, self.height, "BILINEAR")

    def _rgb(self, width: int, height: int, interpolation: str) -> Pixels:
        try:
            scaled = self._frame.reformat(width=width, height=height, format="rgb24", interpolation=interpolation)
            pixels: Pixels = scaled.to_ndarray()
        except Exception as error:  # FFmpeg's errors, and those of formats that it does not scale
            raise ValueError(f"the frame cannot be converted: {error}") from error
        return pixels


class Film:
    """One opening of a source. `run` is called once; the counts may be read from any thread."""

    def __init__(
        self,
        spec: SourceConfig,
        *,
        interval_s: Callable[[], float],
        deliver: Callable[[VideoFrame], None],
        max_pixels: int,
    ) -> None:
        """Read *spec*; *interval_s* says how far apart frames are wanted now, *deliver* takes each, in this thread."""
        self.seen = 0
        self.skipped = 0
        self.damaged = 0
        self._spec = spec
        self._interval_s = interval_s
        self._deliver = deliver
        self._max_pixels = max_pixels
        self._stop = threading.Event()
        self._next = -math.inf
        self._begun = 0.0
        self._bad = 0

    def stop(self) -> None:
        """Make `run` return, at the next frame or when the source's read times out."""
        self._stop.set()

    def stopped(self) -> bool:
        """Whether it has been told to."""
        return self._stop.is_set()

    def run(self) -> None:
        """Read to the end, or until `stop`. Raises DeviceError if it cannot be opened or breaks off."""
        try:
            import av  # noqa: PLC0415 - probing a plugin must not cost FFmpeg; 40 MB
        except ImportError as error:
            raise DeviceError(f"video needs a package: {error}", remedy="pip install 'sparkd[video]'") from error
        av.logging.set_level(None)  # FFmpeg's own lines say less than our states, once for every bad frame
        try:
            with self._opened(av) as container:
                self._read(container, av.error.FFmpegError)
        except DeviceError:
            raise
        except Exception as error:  # FFmpeg's demuxers fail in many ways; none may end more than this source
            if not self._stop.is_set():
                reason = getattr(error, "strerror", None) or type(error).__name__
                raise DeviceError(f"{self._spec.shown}: {reason}", remedy=CHECK_CABLE) from error

    def _opened(self, av: Any) -> Any:
        spec, options, kind = self._spec, {}, None
        if spec.kind == "camera":
            kind = "v4l2"
            options = {"video_size": spec.size} if spec.size else {}
        elif spec.kind == "stream":
            options = {"protocol_whitelist": STREAM_PROTOCOLS, "fflags": "nobuffer", "analyzeduration": "1000000"}
            if spec.location.startswith("rtsp"):
                options["rtsp_transport"] = "tcp"  # over UDP a lost packet is a broken picture
        else:
            options = {"protocol_whitelist": "file"}
        return av.open(spec.url, format=kind, options=options, timeout=(OPEN_S, spec.stall_s))

    def _read(self, container: Any, ffmpeg_error: type[Exception]) -> None:
        stream = next((one for one in container.streams if one.type == "video"), None)
        if stream is None:
            raise DeviceError(f"{self._spec.shown}: there is no video in it", remedy="set `location` to a video")
        intra = stream.codec_context.name in INTRA and self._spec.kind != "video"
        self._begun = time.monotonic()
        for packet in container.demux(stream):
            if self._stop.is_set():
                return
            if intra and packet.size and not self._due(time.monotonic()):
                self.seen += 1
                self.skipped += 1
                continue
            self._decode(packet, ffmpeg_error, chosen=intra)

    def _decode(self, packet: Any, ffmpeg_error: type[Exception], *, chosen: bool) -> None:
        start = time.perf_counter()
        try:
            frames = packet.decode()
        except ffmpeg_error as error:
            self.damaged += 1
            self._bad += 1
            if self._bad >= BAD_IN_A_ROW:
                raise DeviceError(f"{self._spec.shown}: {self._bad} bad frames in a row", remedy=CHECK_CABLE) from error
            return
        decode_ms = (time.perf_counter() - start) * 1000
        for frame in frames:
            if self._stop.is_set():
                return
            if frame.is_corrupt:
                self.damaged += 1
                continue
            self._bad = 0
            self._offer(frame, decode_ms / len(frames), chosen=chosen)

    def _offer(self, frame: Any, decode_ms: float, *, chosen: bool) -> None:
        if frame.width * frame.height > self._max_pixels:
            size = f"{frame.width} x {frame.height}"
            raise DeviceError(
                f"{self._spec.shown}: frames of {size} pixels, more than max_pixels = {self._max_pixels}",
                remedy="set a smaller `size`, or a larger max_pixels",
            )
        self.seen += 1
        at = self._at(frame)
        if not chosen and not self._due(at):
            self.skipped += 1
            return
        self._deliver(VideoFrame(frame.width, frame.height, time.time_ns(), decode_ms, frame))

    def _at(self, frame: Any) -> float:
        """Return the frame's time; of a video played at its own speed, wait for it."""
        if self._spec.kind != "video":
            return time.monotonic()
        at = float(frame.time or 0.0)
        if self._spec.realtime:
            self._stop.wait(max(0.0, self._begun + at - time.monotonic()))
        return at

    def _due(self, at: float) -> bool:
        interval = self._interval_s()
        if interval == math.inf or at < self._next - 0.1 * interval:  # cameras are not that punctual
            return False
        self._next = max(self._next, at - interval) + interval
        return True
