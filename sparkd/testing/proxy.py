"""A TCP proxy on loopback that misbehaves as told: a link that is cut, stands still, or is slow."""

from __future__ import annotations

import contextlib
import socket
import threading  # noqa: TID251 - drives daemons from outside, with no loop of its own
import time
from typing import Self

CHUNK_BYTES = 16 << 10


class Proxy:
    """Passes each connection on to *target*, a port of 127.0.0.1; `cut`, `stall`, `throttle` and `heal` change how."""

    def __init__(self, target: int) -> None:
        """Listen on a free port of 127.0.0.1, `port`."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._is_cut = False
        self._bytes_per_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """End all connections, and every new one at once, until healed."""
        self._is_cut = True
        self._hang_up()

    def stall(self) -> None:
        """Let connections live, and pass nothing on, until healed."""
        self._flows.clear()

    def throttle(self, bytes_per_s: float) -> None:
        """Pass on no more than *bytes_per_s* in each direction of each connection, until healed."""
        self._bytes_per_s = bytes_per_s

    def heal(self) -> None:
        """Pass everything on again."""
        self._is_cut, self._bytes_per_s = False, 0.0
        self._flows.set()

    def close(self) -> None:
        """End all connections and listen no more."""
        self._is_cut = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a close alone does not wake the thread that accepts
        self._listener.close()
        self._hang_up()
        self._flows.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                if self._is_cut:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:  # nobody listens behind the proxy now
                near.close()
                continue
            far.settimeout(None)
            with self._guard:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                self._flows.wait()
                if self._bytes_per_s:
                    time.sleep(len(data) / self._bytes_per_s)  # noqa: TID251 - in a thread of this connection
                sink.sendall(data)
        except OSError:  # either side hung up, or the link was cut
            pass
        finally:
            self._end({source, sink})

    def _hang_up(self) -> None:
        with self._guard:
            ends = set(self._open)
        self._end(ends)

    def _end(self, ends: set[socket.socket]) -> None:
        with self._guard:
            self._open -= ends
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
