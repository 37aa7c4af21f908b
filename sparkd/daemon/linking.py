"""What the link and the calls of other nodes need of the core: who we are, what a peer may do, where its frames go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkd.daemon.version import VERSION
from sparkd.events import LinkChanged
from sparkd.link import Identity, Link, LinkHooks

if TYPE_CHECKING:
    from sparkd.calls import Endpoint
    from sparkd.daemon.core import Core


def make_link(core: Core) -> Link:
    """Return the link of *core*, not opened yet."""
    node = core.config.node
    endpoints: dict[str, Endpoint] = {}

    def up(peer: str, channel: Any) -> None:
        endpoints[peer] = core.router.attach(peer, channel, kind="node")

    def down(peer: str, reason: str) -> None:
        endpoint = endpoints.pop(peer, None)
        if endpoint is not None:
            core.router.detach(endpoint, reason)

    def frames(peer: str, received: list[bytes]) -> None:
        if peer in endpoints:
            endpoints[peer].feed(received)

    def changed(change: LinkChanged) -> None:
        core.publish(change, f"system.health.link.{change.peer}")
        core.wake()

    hooks = LinkHooks(
        on_peer_up=up,
        on_peer_down=down,
        on_frames=frames,
        on_call_refused=lambda peer, request, body, rule: core.auditor.refused("node", peer, request, body, rule),
        retained=lambda topics: [message for topic in topics for message in core.retained.at(topic)],
        on_change=changed,
    )
    return Link(
        core.config.link,
        keys_dir=core.places.state / "keys",
        identity=Identity(name=node.name, node_id=core.node_id, site=node.site, role=node.role, version=VERSION),
        bus=core.bus,
        hooks=hooks,
        log=core.log,
    )


def refuse_call(core: Core, peer: str, service: str, interface: str, method: str) -> str | None:
    """Return the rule by which node *peer* may not make this call; None if it may."""
    settings = core.config.link.peers.get(peer)
    allowed = settings.calls if settings else []
    if f"{interface}.{method}" in allowed or f"{interface}.*" in allowed:
        return None
    return f"[link.peers.{peer}] calls lets it call {allowed}, not {service}:{interface}.{method}"


def same_site(core: Core, node: str) -> bool:
    """Whether *node* is configured to stand at this node's site."""
    settings = core.config.link.peers.get(node)
    return settings is not None and settings.site == core.config.node.site
