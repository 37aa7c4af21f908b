"""JSON-RPC 2.0 on the node's Unix socket."""

from __future__ import annotations

from sparkd.rpc.access import Access, Verdict
from sparkd.rpc.asking import asking_client
from sparkd.rpc.catalog import core_manifest
from sparkd.rpc.connection import RpcCounts
from sparkd.rpc.door import Audit, Door
from sparkd.rpc.jsonrpc import CODES
from sparkd.rpc.limits import RpcLimits
from sparkd.rpc.peer import Peer
from sparkd.rpc.server import let_in, serve_rpc

__all__ = [
    "CODES",
    "Access",
    "Audit",
    "Door",
    "Peer",
    "RpcCounts",
    "RpcLimits",
    "Verdict",
    "asking_client",
    "core_manifest",
    "let_in",
    "serve_rpc",
]
