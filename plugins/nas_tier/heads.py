"""Records as people and programs see them. Pure."""

from __future__ import annotations

from sparkd import MemoryHead, MemoryRecord

from .clock import node_of


def public_head(record: MemoryRecord) -> MemoryHead:
    """Return what is known of a value, for whoever may read it."""
    return MemoryHead(
        namespace=record.namespace,
        key=record.key,
        etag=record.version,
        size=record.size,
        content_type=record.content_type,
        tags=list(record.tags),
        written_at=record.written_ms / 1000,
        written_by=node_of(record.version),
        soft_expires_at=record.soft_ms / 1000,
        expires_at=record.hard_ms / 1000,
        deleted=record.deleted,
        digest=record.digest,
    )
