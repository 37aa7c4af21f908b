"""The models that are loaded, by the names they answer to; loading, letting go and replacing them under way.

A request holds its model from when it has picked it until it is answered; a model that was replaced is closed when
nobody holds it any more. Picking and holding happen without giving the loop away, so none slips through between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from sparkd import CallError, CallErrorKind, ConfigError, DeviceError, Inference, ModelInfo

from .engine import Engine

if TYPE_CHECKING:  # brings numpy, which probing must not pay for
    from .pipeline import Model


class Roster:
    """The loaded models. `models` is kept as the list of those that are open, for whoever closes them at the end."""

    def __init__(
        self, models: list[Model], *, load: Callable[[Path], Model], roots: tuple[Path, ...], tasks: TaskGroup
    ) -> None:
        """Take *models*, the first for callers who name none; *load* opens a bundle beneath one of *roots*."""
        self._open = models
        self._load = load
        self._roots = roots
        self._tasks = tasks
        self._engines = {model.bundle.name: Engine(model) for model in models}
        self._default = models[0].bundle.name
        self._changing = anyio.Lock()

    @contextmanager
    def held(self, name: str | None = None) -> Iterator[Engine]:
        """Keep the model that answers to *name* from being closed. Raises CallError if there is none."""
        with self.engine(name).held() as engine:
            yield engine

    def engine(self, name: str | None = None) -> Engine:
        """Return the model that answers to *name*. Raises CallError if there is none."""
        engine = self._engines.get(self._default if name is None else name)
        if engine is None:
            choices = ", ".join(self._engines)
            raise CallError(CallErrorKind.INVALID_PARAMS, f"unknown model {name!r}; choices: {choices}", field="model")
        return engine

    async def look(self, image: bytes, *, source: str, source_ns: int = 0) -> Inference:
        """Look at *image* with the model for those who name none. Raises as `Engine.look`."""
        with self.held() as engine:
            return await engine.look(image, source=source, source_ns=source_ns)

    def infos(self) -> list[ModelInfo]:
        """Return what `vision.models` says: each model once."""
        return [self._info(engine) for engine in dict.fromkeys(self._engines.values())]

    def _info(self, engine: Engine) -> ModelInfo:
        own = engine.model.bundle.name
        others = [name for name, known in self._engines.items() if known is engine and name != own]
        default = self._engines[self._default] is engine
        return replace(engine.model.info, default=default, answers_to=others)

    async def load(self, folder: str) -> ModelInfo:
        """Load a bundle beside the others. Raises CallError."""
        async with self._changing:
            engine = await self._opened(folder)
            name = engine.model.bundle.name
            if name in self._engines:
                self._retire(engine)
                raise _refused(f"a model called {name!r} is loaded", "switch to it, or unload that one first")
            self._engines[name] = engine
            return self._info(engine)

    async def switch(self, folder: str, name: str | None) -> ModelInfo:
        """Put the bundle of *folder* in the place of the model *name*. Raises CallError; then nothing has changed."""
        async with self._changing:
            old = self.engine(name)
            new = await self._opened(folder)
            own = new.model.bundle.name
            if self._engines.get(own, old) is not old:
                self._retire(new)
                raise _refused(f"another model called {own!r} is loaded", f"unload {own!r} first")
            self._engines = {key: new if known is old else known for key, known in self._engines.items()}
            self._engines.setdefault(own, new)
            self._retire(old)
            return self._info(new)

    async def unload(self, name: str) -> None:
        """Let go of the model *name*, and of its other names. Raises CallError."""
        async with self._changing:
            gone = self.engine(name)
            if gone is self._engines[self._default]:
                raise _refused(f"{name!r} answers callers who name no model", "switch to another model instead")
            self._engines = {key: known for key, known in self._engines.items() if known is not gone}
            self._retire(gone)

    async def _opened(self, folder: str) -> Engine:
        try:  # shielded: a caller who goes away must not leave a model that nobody knows
            with anyio.CancelScope(shield=True):
                model = await anyio.to_thread.run_sync(lambda: self._load(bundle_folder(folder, self._roots)))
        except ConfigError as error:
            raise _refused("; ".join(error.problems), "mend the bundle") from error
        except DeviceError as error:
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy=error.remedy) from error
        self._open.append(model)
        return Engine(model)

    def _retire(self, engine: Engine) -> None:
        self._tasks.start_soon(self._close_unused, engine)

    async def _close_unused(self, engine: Engine) -> None:
        await engine.unused()
        with anyio.CancelScope(shield=True):
            await engine.close()
            self._open.remove(engine.model)


def bundle_folder(folder: str, roots: tuple[Path, ...]) -> Path:
    """Return the bundle's folder: *folder* itself, or that name beneath the first of *roots* that has it.

    Raises ConfigError if it lies in none of *roots*, links followed.
    """
    named = Path(folder)
    places = [named] if named.is_absolute() else [root / named for root in roots]
    allowed = [root.resolve() for root in roots]
    for place in places:
        real = place.resolve()
        if real.is_dir() and any(real.is_relative_to(root) and real != root for root in allowed):
            return real
    raise ConfigError(f"{folder}: no bundle there that may be loaded; bundles come from {', '.join(map(str, roots))}")


def _refused(reason: str, remedy: str) -> CallError:
    return CallError(CallErrorKind.INVALID_PARAMS, f"folder: {reason}", remedy=remedy, field="folder")
