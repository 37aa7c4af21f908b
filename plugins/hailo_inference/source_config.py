"""What an operator may set of a source, `[[plugins.hailo-inference.sources]]`, and of a power mode."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from sparkd import Secret

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}")
STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "tcp://", "udp://")
POSITIVE = ("fps", "stall_s", "retry_max_s", "snapshot_files", "snapshot_bytes", "snapshot_every_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A camera, stream, video or folder to watch."""

    name: str
    """What its events are called by: lower-case letters, digits, `-` and `_`."""
    kind: Literal["folder", "video", "camera", "stream"]
    location: str = field(repr=False)
    """A path; of a stream its URL (rtsp, http or https), without a user and a password: they go into `login`."""
    login: Secret | None = None
    """USER:PASSWORD of a stream, by the name of a secret."""
    model: str = ""
    """The model that looks at it; none for the one that answers callers who name none."""
    fps: float = 5.0
    """So many frames a second are looked at, at the most."""
    privacy: Literal["node", "local", "shared"] = "local"
    """How far its events may travel."""
    publish: Literal["found", "all"] = "found"
    """Whether frames in which nothing was found become events too."""
    after: Literal["keep", "delete", "move"] = "keep"
    """Of a folder: what becomes of a picture once its result is stored."""
    realtime: bool = True
    """Of a video: whether it is played at its own speed, as a camera would. Otherwise every frame that `fps` allows is
    looked at, however long that takes."""
    loop: bool = False
    """Of a video: whether it begins again at its end."""
    size: str = ""
    """Of a camera: the size to ask for, such as 1280x720; none for what it gives."""
    stall_s: float = 10.0
    """After so long without a frame, a camera or stream is closed and opened again."""
    retry_max_s: float = 60.0
    """The longest pause between two attempts to open it. The first is 1 s, and each is twice the one before."""
    snapshots: Path | None = None
    """A folder for annotated pictures of what was found; none for no pictures."""
    snapshot_files: int = 100
    """So many of this source are kept, the newest."""
    snapshot_bytes: int = 50 << 20
    """So many bytes of them, at the most."""
    snapshot_every_s: float = 10.0
    """At the most one is made in this time."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name: lower-case letters, digits, - and _ expected, got {self.name!r}")
        for key in POSITIVE:
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}: must be positive, got {getattr(self, key)}")
        if self.kind == "stream":
            self._check_stream()
        elif not Path(self.location).is_absolute():
            raise ValueError(f"location: an absolute path expected, got {self.location!r}")
        if self.size and not SIZE.fullmatch(self.size):
            raise ValueError(f"size: WIDTHxHEIGHT expected, such as 1280x720, got {self.size!r}")
        if self.snapshots is not None and not self.snapshots.is_absolute():
            raise ValueError(f"snapshots: an absolute path expected, got {str(self.snapshots)!r}")

    def _check_stream(self) -> None:
        if not self.location.startswith(STREAMS):
            raise ValueError(f"location: a URL of {', '.join(STREAMS)} expected, got {self.shown!r}")
        if "@" in urlsplit(self.location).netloc:
            text = f"location: a user or password stands in the URL of {self.shown}"
            raise ValueError(f"{text}: put USER:PASSWORD into a secret and its name into login")
        if self.login is not None and not self.login.reveal().strip().partition(":")[0]:
            raise ValueError("login: USER:PASSWORD expected in the secret")

    @property
    def url(self) -> str:
        """What is opened: with user and password, not to be shown to anybody."""
        if self.login is None:
            return self.location
        scheme, _, rest = self.location.partition("://")
        user, _, password = self.login.reveal().strip().partition(":")
        return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"

    @property
    def shown(self) -> str:
        """The location without its path and query, in which cameras of many makes want a password."""
        if self.kind != "stream":
            return self.location
        scheme, _, rest = self.location.partition("://")
        host = urlsplit("//" + rest).netloc.rpartition("@")[2] if rest else "?"
        return f"{scheme}://{host}/…"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRule:
    """What the sources do in a power mode."""

    rate: float = 1.0
    """The share of its frame rate that each source keeps; 0 closes the sources."""
    model: str = ""
    """The model that looks instead of the source's own, such as a smaller one; none for no change."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate: from 0 to 1 expected, got {self.rate}")
