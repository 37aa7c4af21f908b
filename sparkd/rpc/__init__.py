"""JSON-RPC 2.0 on the node's Unix socket."""

from __future__ import annotations

from sparkd.rpc.catalog import core_manifest
from sparkd.rpc.connection import RpcCounts
from sparkd.rpc.door import Door
from sparkd.rpc.jsonrpc import CODES
from sparkd.rpc.limits import RpcLimits
from sparkd.rpc.peer import Access, Role
from sparkd.rpc.server import access_of, serve_rpc

__all__ = ["CODES", "Access", "Door", "Role", "RpcCounts", "RpcLimits", "access_of", "core_manifest", "serve_rpc"]
