"""The way in: a node without the extra `embedding` is told so by its service, and not by a traceback."""

from __future__ import annotations

from anyio.abc import TaskStatus

from sparkd import Context, DeviceError

from .config import TextEmbeddingConfig


async def run(ctx: Context[TextEmbeddingConfig], *, task_status: TaskStatus[None]) -> None:
    """Serve `embed` until cancelled. Raises DeviceError if what it needs is not installed."""
    try:
        from .service import serve  # noqa: PLC0415 - it needs what may not be there
    except ImportError as error:
        raise DeviceError(f"{error.name} is not installed", remedy="pip install 'sparkd[embedding]'") from error
    await serve(ctx, task_status=task_status)
