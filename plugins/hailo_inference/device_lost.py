"""The word for a device that is gone for this process. Imports nothing heavy: the service knows it before any model."""

from __future__ import annotations

from sparkd import DeviceError

abandoned: list[object] = []
"""Of lost devices: freed here, they would be torn down, or written to after they are freed."""


class DeviceLostError(DeviceError):
    """The device is gone for this process: nothing will run on it again before the process has been replaced.

    Whoever catches it answers the request with it and ends the service; the supervisor then starts a new process.
    """
