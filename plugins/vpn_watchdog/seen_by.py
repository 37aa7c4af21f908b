"""Where another node gets our tunnel's packets from: the address of this home, told by one who must know it."""

from __future__ import annotations

from sparkd import DeviceError, Privacy, SparkdError, Tunnel

from .parts import Parts
from .wg import split_endpoint

LIMIT_S = 5.0


async def seen_by(parts: Parts, node: str) -> str:
    """Return the address at which *node* has us among its peers. Raises DeviceError if it cannot say."""
    keys = set()
    for interface in parts.config.interfaces:
        keys.add((await parts.wg.show(interface, ("public-key",)))["public-key"].strip())
    try:
        # Nothing is told by the question, and whoever answers is often at another site.
        peers = await parts.ctx.call(Tunnel, node=node, deadline_s=LIMIT_S, privacy=Privacy.SHARED).peers()
    except SparkdError as error:
        remedy = f'"tunnel.peers" among the calls of this node at {node}'
        raise DeviceError(f"{node} does not tell: {error}", remedy=remedy) from None
    for peer in peers:
        if peer.public_key in keys and peer.endpoint:
            return split_endpoint(peer.endpoint)[0]
    raise DeviceError(f"{node} has none of our keys among its peers, or has not heard of us")
