"""Times and socket options that both sides of a link share."""

from __future__ import annotations

from dataclasses import dataclass

import zmq  # noqa: TID251 - the link speaks ZeroMQ

HIGH_WATER = 256
"""Messages zmq keeps per connection and direction, whatever their size; a quarter of it costs a third of the rate."""
FRAME_OVERHEAD = 1024
"""What CURVE and the kind of a message add to a frame; the sender's own check is exact, so this need not be."""
FAREWELL_MS = 200
"""How long the last message of a connection, which says why it ends, may take to leave."""
MAX_MISSED_HEARTBEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take, in seconds."""

    heartbeat_s: float = 10.0
    handshake_s: float = 5.0
    """From a connection's start to its greeting; ZeroMQ's own default is 30 s, for networks of another age."""
    retry_first_s: float = 0.1
    retry_min_s: float = 1.0
    retry_max_s: float = 10.0
    """For a peer that cannot be reached: a packet in ten seconds is nothing, and the end of an outage is noticed."""
    retry_refused_max_s: float = 60.0
    """For a peer that said no; a change of keys on this side is tried at once."""


def configure(socket: zmq.Socket[bytes], timing: Timing, *, max_message_bytes: int) -> None:
    """Set what every socket of the link has in common, before it binds or connects."""
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = HIGH_WATER
    socket.maxmsgsize = max_message_bytes + FRAME_OVERHEAD
    socket.heartbeat_ivl = int(timing.heartbeat_s * 1000)
    socket.heartbeat_timeout = int(timing.heartbeat_s * 1000 * MAX_MISSED_HEARTBEATS)
    socket.heartbeat_ttl = min(socket.heartbeat_timeout, 6_553_500)  # a 16-bit count of tenths of seconds
    socket.handshake_ivl = int(timing.handshake_s * 1000)
