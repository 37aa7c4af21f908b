"""The service: texts of several calls go through the model together, in a thread, one run at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from sparkd import CallError, CallErrorKind, Context, DeviceError, Embed, Embedded, EmbedModel, Privacy, current_call

from .config import TextEmbeddingConfig
from .policy import Backend, check, unit

WAITING_MOST = 256
"""Texts that wait for their turn; more are refused."""


async def serve(ctx: Context[TextEmbeddingConfig], *, task_status: TaskStatus[None]) -> None:
    """Serve `embed` until cancelled. Raises DeviceError, ConfigError."""
    backend = await anyio.to_thread.run_sync(_opened, ctx.config)
    embedding = Embedding(ctx.config, backend)
    await ctx.serve(Embed, embedding)
    task_status.started()
    await embedding.work()


def _opened(config: TextEmbeddingConfig) -> Backend:
    """Open what the config names; imports what it needs only then."""
    if config.backend == "ollama":
        from .backend_ollama import OllamaModel  # noqa: PLC0415 - the other one is not needed

        return OllamaModel(config)
    from .device_onnx import open_onnx  # noqa: PLC0415 - 60 ms and 40 MB

    return open_onnx(config)


@dataclass(slots=True, eq=False)
class _Asked:
    texts: Sequence[str]
    vectors: list[bytes] = field(default_factory=list)
    error: CallError | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class Embedding:
    """Answers calls."""

    def __init__(self, config: TextEmbeddingConfig, backend: Backend) -> None:
        """Run texts through *backend*."""
        self._config = config
        self._backend = backend
        self._queue: list[_Asked] = []
        self._came = anyio.Event()

    async def model(self) -> EmbedModel:
        """Say what does it."""
        made = self._backend.made
        return EmbedModel(
            model=made.model, dimensions=made.dimensions, max_characters=made.max_characters, backend=made.backend
        )

    async def texts(self, *, texts: list[str]) -> Embedded:
        """Return a vector for each text."""
        check(texts)
        if self._config.backend == "ollama" and current_call().privacy < Privacy.parse(self._config.reach):
            rule = f"texts go to {self._config.ollama_url} from the class {self._config.reach} on"
            raise CallError(CallErrorKind.DENIED, "the texts are not sent there", rule=rule)
        if sum(len(asked.texts) for asked in self._queue) + len(texts) > WAITING_MOST:
            text = f"{WAITING_MOST} texts wait already"
            raise CallError(CallErrorKind.UNAVAILABLE, text, remedy="ask again in a moment")
        asked = _Asked(texts)
        self._queue.append(asked)
        self._came.set()
        try:
            await asked.done.wait()
        finally:
            if asked in self._queue:  # its caller is gone
                self._queue.remove(asked)
        if asked.error is not None:
            raise asked.error
        made = self._backend.made
        return Embedded(model=made.model, dimensions=made.dimensions, vectors=asked.vectors)

    async def work(self) -> None:
        """Run what waits, for ever."""
        while True:
            await self._came.wait()
            self._came = anyio.Event()
            while self._queue:
                await self._run(self._taken())

    def _taken(self) -> list[_Asked]:
        """Return calls whose texts fit into one run; at least one, whose texts take several."""
        taken: list[_Asked] = []
        count = 0
        while self._queue and (not taken or count + len(self._queue[0].texts) <= self._config.batch):
            asked = self._queue.pop(0)
            taken.append(asked)
            count += len(asked.texts)
        return taken

    async def _run(self, taken: list[_Asked]) -> None:
        texts = [text for asked in taken for text in asked.texts]
        vectors: list[bytes] = []
        error: CallError | None = None
        try:
            for begin in range(0, len(texts), self._config.batch):
                part = texts[begin : begin + self._config.batch]
                vectors += unit(await anyio.to_thread.run_sync(self._backend.run, part))
        except DeviceError as failure:
            error = CallError(CallErrorKind.UNAVAILABLE, str(failure), remedy=failure.remedy or "look at the model")
        for asked in taken:
            count = len(asked.texts)
            asked.vectors, vectors = vectors[:count], vectors[count:]
            asked.error = error
            asked.done.set()
