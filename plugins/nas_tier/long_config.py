"""What an operator may set of the memory's long tier: where its records and its blobs stand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from sparkd import Secret

POSTGRES = ("postgresql", "postgres")
ENCRYPTED = ("require", "verify-ca", "verify-full")
QUERY_KEYS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "target_session_attrs", "application_name")
"""What may stand after the `?`: nothing that holds a secret, nothing that changes what our statements mean."""
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""As Amazon has it."""
PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
MOST_TIMEOUT_S = 60.0
"""Half of what another node waits for a blob that is being deleted (`record_store.LEASE_S`)."""


def is_near(host: str) -> bool:
    """Whether *host* is this machine: a Unix socket's folder, or loopback."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LongConfig:
    """The table of the long tier."""

    records: str = ""
    """`postgresql://USER@HOST/DATABASE?sslmode=verify-full`, or the path of a SQLite file; empty for one of ours."""
    password: Secret | None = field(default=None, repr=False)
    """Of the user of PostgreSQL."""
    objects: str = ""
    """`s3://BUCKET/PREFIX` or `file:///FOLDER`; empty for a folder of ours."""
    endpoint: str = ""
    """The URL of the S3 server, unless it is Amazon's."""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: Secret | None = field(default=None, repr=False)
    allow_http: bool = False
    """Whether S3 may be spoken without TLS."""
    ca_file: Path | None = None
    """A file of certificates to trust, for PostgreSQL instead of the system's, for S3 beside them."""
    timeout_s: float = 10.0
    """For one question to a server; of a stream, for each piece."""
    reach: Literal["local", "shared"] = "shared"
    """`local` for servers at this site, or ones that you trust with what is `local`: they get that too."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= MOST_TIMEOUT_S:
            raise ValueError(f"timeout_s: more than 0 and at the most 60 expected, got {self.timeout_s:g}")
        if self.reach not in ("local", "shared"):
            raise ValueError(f"reach: local or shared expected, got {self.reach!r}")
        self._check_records()
        self._check_objects()
        self._check_s3()

    @property
    def in_postgres(self) -> bool:
        """Whether the records stand in PostgreSQL."""
        return self.records.partition(":")[0] in POSTGRES

    def _check_records(self) -> None:
        if not self.in_postgres:
            if self.records and not self.records.startswith("/"):
                raise ValueError("records: a URL postgresql://USER@HOST/DATABASE or a path from / expected")
            return
        parts, query = _split("records", self.records)
        if parts.password or "password" in query:
            raise ValueError("records: no password in the URL expected; name a secret in `password` instead")
        for key in query:
            if key not in QUERY_KEYS:
                raise ValueError(f"records: after the '?' one of {', '.join(QUERY_KEYS)} expected, got {key[:40]!r}")
        mode, hosts = query.get("sslmode", ""), (query.get("host") or unquote(parts.hostname or "")).split(",")
        if mode and mode not in ENCRYPTED and not all(map(is_near, hosts)):
            raise ValueError(f"records: sslmode={mode} would send all unencrypted; {', '.join(ENCRYPTED)} expected")

    def _check_objects(self) -> None:
        if not self.objects:
            return
        parts, _ = _split("objects", self.objects)
        if parts.scheme == "file":
            if parts.netloc or not parts.path.strip("/"):
                raise ValueError("objects: file:///FOLDER expected, with three slashes")
            return
        if parts.scheme != "s3":
            raise ValueError(f"objects: s3://BUCKET/PREFIX or file:///FOLDER expected, got {parts.scheme[:20]!r}")
        prefix = parts.path.strip("/")
        if not BUCKET.fullmatch(parts.netloc) or (prefix and not PREFIX.fullmatch(prefix)) or ".." in prefix:
            raise ValueError("objects: s3://BUCKET/PREFIX expected: lower-case letters, digits, '.' and '-' in BUCKET")

    def _check_s3(self) -> None:
        if bool(self.access_key) != (self.secret_key is not None):
            raise ValueError("access_key and secret_key: both or none expected")
        if not self.endpoint:
            return
        parts, _ = _split("endpoint", self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError("endpoint: https://HOST:PORT expected, with no user and password in it")
        if parts.scheme == "http" and not self.allow_http:
            raise ValueError("endpoint: https expected; set allow_http = true for a server without TLS")


def _split(key: str, url: str) -> tuple[SplitResult, dict[str, str]]:
    try:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        _ = parts.port
    except ValueError:
        raise ValueError(f"{key}: a URL expected") from None  # the error shows the URL
    return parts, query
