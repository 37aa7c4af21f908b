"""Noise suppression for microphones that have none of their own: speex, from a package. 10 ms at a time."""

from __future__ import annotations

from sparkd import DeviceError

FRAME_BYTES = 320
GAIN_OFF = 0.0
SUPPRESSION_DB = -20


class Denoiser:
    """Cleans one stream of 16 kHz sound."""

    def __init__(self) -> None:
        """Make ready. Raises DeviceError if the package is not there."""
        try:
            from pyspeex_noise import AudioProcessor  # noqa: PLC0415 - an extra
        except ImportError as error:
            remedy = "pip install 'sparkd[voice]', or set denoise = 'none'"
            raise DeviceError(f"noise is taken out by a package: {error}", remedy=remedy) from error
        self._make = AudioProcessor
        self.reset()

    def of(self, pcm: bytes) -> bytes:
        """Return what is whole by now, cleaned."""
        self._kept += pcm
        clean = bytearray()
        while len(self._kept) >= FRAME_BYTES:
            clean += self._processor.process_10ms(bytes(self._kept[:FRAME_BYTES]))
            del self._kept[:FRAME_BYTES]
        return bytes(clean)

    def reset(self) -> None:
        """Begin anew with another utterance."""
        self._kept = bytearray()
        self._processor = self._make(GAIN_OFF, SUPPRESSION_DB)
