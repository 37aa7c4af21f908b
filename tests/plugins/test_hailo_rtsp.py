"""A network camera over RTSP, from a real server: it is looked at, it goes, it comes back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparkd.testing import free_port
from tests.plugins.test_hailo_live import rig, source

pytestmark = pytest.mark.anyio
PYTHON = "/usr/bin/python3"
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
ASK = "import gi; gi.require_version('GstRtspServer', '1.0')"


@contextmanager
def camera(port: int) -> Iterator[None]:
    """Run a camera at *port*."""
    server = Path(__file__).with_name("rtsp_server.py")
    with subprocess.Popen([PYTHON, server, str(port)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


async def test_a_camera_over_rtsp_goes_and_comes_back(tmp_path: Path) -> None:
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", ASK], capture_output=True, check=False).returncode:
        pytest.skip(f"needs an RTSP server: apt install {PACKAGES}")
    port = free_port()
    spec = source("stream", f"rtsp://127.0.0.1:{port}/main", stall_s=2.0, retry_max_s=1.0)
    async with rig(tmp_path, spec) as made:
        await made.until(lambda: made.info().state == "lost")
        with camera(port):
            await made.until_live()
            assert (made.info().width, made.info().height) == (320, 240)
        await made.until(lambda: made.info().state in {"stalled", "lost"})
        with camera(port):
            await made.until_live()
            await made.until(lambda: made.ctx.states[-1] == "recovered")
    assert made.ctx.states[0].startswith(f"source cam: rtsp://127.0.0.1:{port}/…: ")
