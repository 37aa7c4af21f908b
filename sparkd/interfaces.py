"""Interfaces: named sets of methods that services serve and others call, and what can be read off their classes.

An interface is a Protocol class decorated with `@interface("vision")`. Its methods take keyword arguments with
annotations; one that changes nothing is decorated with `@reads`. A method that returns `AsyncIterator[T]` answers with
a stream; a parameter annotated `AsyncIterator[T]` is a stream from the caller, and there can be one of them. A method
whose name Python keeps for itself, or that would hide a type, ends with an underscore: callers see it without.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from sparkd.arrays import Array
from sparkd.events import Inference
from sparkd.privacy import Privacy
from sparkd.service import NAME, InterfaceManifest, MethodManifest

I = TypeVar("I")  # noqa: E741 - I for interface
F = TypeVar("F", bound=Callable[..., Any])


def interface(name: str) -> Callable[[type[I]], type[I]]:
    """Declare a Protocol class as the interface *name*. Raises ValueError for a malformed name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"interface name {name!r}: lower-case words joined by hyphens expected")

    def declare(cls: type[I]) -> type[I]:
        cls.__sparkd_interface__ = name  # type: ignore[attr-defined]
        return cls

    return declare


def reads(method: F) -> F:
    """Declare that a method changes nothing."""
    method.__sparkd_reads__ = True  # type: ignore[attr-defined]
    return method


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """What a method's signature says."""

    name: str
    """What callers call it."""
    attribute: str
    """What it is called in Python; see the top of this module."""
    params: type[msgspec.Struct]
    """A struct of the parameters, without the stream one; unknown ones are refused."""
    result: Any
    """Type of the result; None for a stream."""
    item_out: Any
    """Type of the result stream's items, or None."""
    stream_param: str
    """Name of the parameter that is a stream, or nothing."""
    item_in: Any
    reads: bool
    summary: str


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """An interface's name and methods."""

    name: str
    methods: dict[str, MethodSpec]


def interface_name(cls: type[Any]) -> str:
    """Return the name *cls* was declared with. Raises TypeError if it is not an interface."""
    name = cls.__dict__.get("__sparkd_interface__")
    if not isinstance(name, str):
        raise TypeError(f"{cls.__name__} is not an interface: decorate the class with @interface('name')")
    return name


_specs: dict[type[Any], InterfaceSpec] = {}


def interface_spec(cls: type[Any]) -> InterfaceSpec:
    """Return what can be read off the interface *cls*. Raises TypeError, naming the method, if one cannot be called."""
    known = _specs.get(cls)
    if known is not None:
        return known
    name = interface_name(cls)
    methods = {
        attribute.removesuffix("_"): _method_spec(name, attribute, function)
        for attribute, function in vars(cls).items()
        if isinstance(function, types.FunctionType) and not attribute.startswith("_")
    }
    spec = _specs[cls] = InterfaceSpec(name, methods)
    return spec


def _method_spec(interface_name: str, attribute: str, function: types.FunctionType) -> MethodSpec:
    name = attribute.removesuffix("_")
    hints = get_type_hints(function, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    stream_param, item_in = "", None
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        where = f"{interface_name}.{name}: parameter {parameter.name!r}"
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{where} must be keyword-only")
        if parameter.name not in hints:
            raise TypeError(f"{where} has no annotation")
        hint = hints[parameter.name]
        if get_origin(hint) is AsyncIterator:
            if stream_param:
                raise TypeError(f"{where}: a method has one stream parameter at the most")
            stream_param, item_in = parameter.name, get_args(hint)[0]
        elif parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, parameter.default))
    params = msgspec.defstruct(f"{interface_name}.{name}", fields, kw_only=True, forbid_unknown_fields=True)
    result = hints.get("return", Any)
    streams_out = get_origin(result) is AsyncIterator
    return MethodSpec(
        name=name,
        attribute=attribute,
        params=params,
        result=None if streams_out else result,
        item_out=get_args(result)[0] if streams_out else None,
        stream_param=stream_param,
        item_in=item_in,
        reads=getattr(function, "__sparkd_reads__", False),
        summary=(inspect.getdoc(function) or "").partition("\n")[0],
    )


def interface_manifest(cls: type[Any]) -> InterfaceManifest:
    """Return the interface *cls* as data, with JSON Schemas."""
    spec = interface_spec(cls)
    return InterfaceManifest(name=spec.name, methods=tuple(_method_manifest(m) for m in spec.methods.values()))


def _method_manifest(method: MethodSpec) -> MethodManifest:
    out, incoming = method.item_out is not None, bool(method.stream_param)
    return MethodManifest(
        name=method.name,
        summary=method.summary,
        params=_schema(method.params),
        result=_schema(method.item_out if out else method.result),
        stream="both" if out and incoming else "out" if out else "in" if incoming else "",
        reads=method.reads,
    )


def _schema(kind: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(kind)
    except TypeError:  # a type without a JSON form, such as bytes in a union: still callable over MessagePack
        return {}


@interface("vision")
class Vision(Protocol):
    """Pictures in, what is in them out."""

    @reads
    async def infer(
        self, *, image: bytes = b"", picture: Array | None = None, source: str = "", model: str | None = None
    ) -> Inference:
        """Run a model on one picture: encoded (PNG, JPEG, WebP, BMP) as *image*, or as RGB pixels in *picture*.

        *picture* has the shape (height, width, 3) and the dtype `|u1`; a large one comes through shared memory.
        """
        ...

    @reads
    async def models(self) -> list[ModelInfo]:
        """List the models that are loaded."""
        ...

    @reads
    async def sources(self) -> list[SourceInfo]:
        """List the cameras, streams and files that are watched, and how each is."""
        ...

    async def load(self, *, folder: str) -> ModelInfo:
        """Load the bundle in *folder*, beside those that are loaded.

        *folder* is a path, or a bundle's name beneath one of the folders that bundles may come from.
        """
        ...

    async def unload(self, *, name: str) -> None:
        """Let go of a model, once no request is using it. The one for callers who name none stays."""
        ...

    async def switch(self, *, folder: str, model: str | None = None) -> ModelInfo:
        """Put the bundle in *folder* in the place of *model*, by default of the one for callers who name none.

        The new one is loaded beside the old; then requests go to it, also those for the old name; the old one is let go
        of when it has answered what it had. No request is dropped or refused by it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that `vision` can run."""

    name: str
    version: str
    task: str
    backend: str
    labels: int
    default: bool = False
    """Whether it answers callers who name none."""
    answers_to: list[str] = field(default_factory=list)
    """The names it answers to besides its own: those of models it has replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """A camera, stream or file that is watched."""

    name: str
    kind: str
    state: str
    """`connecting`, `live`, `stalled`, `lost`, `paused` or `ended`."""
    reason: str = ""
    """Why it is not live."""
    model: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    """The most that is looked at a second, as power and heat allow now."""
    looked: int = 0
    """Frames that a model has looked at."""
    dropped: int = 0
    """Frames replaced by a newer one before a model was free."""
    skipped: int = 0
    """Frames that came faster than `fps`."""
    damaged: int = 0
    """Frames that could not be decoded."""
    connects: int = 0
    """How often it was opened."""
    snapshots_missed: int = 0
    """Snapshots that could not be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """One outbox record on its way to another node, with the sequence number it has in its stream."""

    seq: int
    topic: str
    body: bytes
    privacy: Privacy
    wall_ns: int
    mono_ns: int
    trace: bytes | None = None
    priority: int = 0
    expires_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReceipt:
    """What the receiver has of a stream after a batch, on disk."""

    stored: int
    """How many records of the batch were new."""
    through_seq: int
    """The end of the unbroken range around the batch that it has; the sender may pass from the batch up to it."""
    refused: dict[int, str]
    """Records it will never take, by sequence number, with the reason."""


@interface("ingest")
class Ingest(Protocol):
    """Durable records from other nodes."""

    async def append(
        self,
        *,
        node_id: str,
        service: str,
        stream: str,
        epoch: int,
        records: list[BatchRecord],
        after_seq: int | None = None,
        through_seq: int | None = None,
        floor_seq: int = 0,
    ) -> BatchReceipt:
        """Store a batch of a stream; answered after it is on disk. A record that is there already is skipped.

        The batch holds everything in (*after_seq*, *through_seq*] that may travel; by default that is from the first
        to the last record. So a batch of fresh records may overtake the history of its stream: the receiver keeps
        which ranges it has. The sender never sends anything at or before *floor_seq* again.
        """
        ...

    @reads
    async def position(self, *, node_id: str, service: str, stream: str, epoch: int) -> int:
        """Return the last sequence number stored of a stream; 0 if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStatus:
    """A command that was sent, and what came of it."""

    command_id: str
    target: str
    method: str
    state: str
    """`pending`, `delivered`, `done`, `failed` or `expired`."""
    result: Any = None
    error: str = ""


@interface("commands")
class Commands(Protocol):
    """Commands for other nodes: kept until they are delivered or expire, run once, answered durably."""

    async def send(
        self,
        *,
        target: str,
        method: str,
        params: dict[str, Any] | None = None,
        expires_s: float = 3600.0,
        privacy: Literal["local", "shared"] = "shared",
    ) -> str:
        """Queue a call of *method* on node *target*; return the command's id once it is on disk.

        *privacy* is the class of the command and of its result: a `local` one goes only to a node at the same site.
        """
        ...

    @reads
    async def status(self, *, command_id: str) -> CommandStatus:
        """Return what is known of a command."""
        ...


@interface("command-runner")
class CommandRunner(Protocol):
    """The receiving end of commands."""

    async def run(
        self,
        *,
        command_id: str,
        method: str,
        params: dict[str, Any],
        expires_ns: int,
        remaining_s: float | None = None,
    ) -> str:
        """Take a command: `accepted`, `duplicate` or `expired`. The result comes as a durable `CommandResult`.

        *expires_ns* is by the sender's wall clock, 0 for never. Clocks differ, so a sender also gives *remaining_s*,
        what is left as it sends, and the receiver counts from the arrival.
        """
        ...


@interface("store")
class Store(Protocol):
    """What stream-sink has stored."""

    @reads
    async def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        ...

    @reads
    async def positions(self) -> dict[str, int]:
        """Return, for each `node/service/stream`, the last sequence number stored."""
        ...
