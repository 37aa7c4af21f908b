"""Servers of the lab's internet, in a thread of this process with sockets of its namespaces."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
from anyio.from_thread import BlockingPortal

MakeSocket = Callable[[int, int], socket.socket]


@dataclass(eq=False)
class Names(asyncio.DatagramProtocol):
    """A DNS server that knows the addresses of a few names, and takes signed updates of them (RFC 2136)."""

    addresses: dict[str, str] = field(default_factory=dict)
    """By absolute name: `hub.lab.`; A or AAAA by what the address is."""
    zone: str = "lab."
    keys: dict[dns.name.Name, dns.tsig.Key] = field(default_factory=dict)
    """Who may update; nobody if empty."""
    updates: list[tuple[str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    silent: bool = False
    refuses: dns.rcode.Rcode | None = None
    unsigned: bool = False
    """Answer updates without doing or signing anything, as somebody on the way could."""
    garbage: bytes | None = None
    """What comes behind the identity of each answer, in the place of one."""
    _transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go through."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer."""
        assert self._transport is not None
        if not self.silent:
            self._transport.sendto(self.answer(data), addr)

    def answer(self, data: bytes) -> bytes:
        """Return the answer to a message, signed if that was."""
        if self.garbage is not None:
            return data[:2] + self.garbage
        try:
            message = dns.message.from_wire(data, keyring=self.keys or None)
        except (dns.tsig.BadSignature, dns.message.UnknownTSIGKey, dns.tsig.BadTime):
            return self._refused(data)
        if message.opcode() == dns.opcode.UPDATE and self.unsigned:
            return self._unsigned(data, dns.rcode.NOERROR)
        if message.opcode() == dns.opcode.UPDATE:
            return self._update(message).to_wire()
        return self._query(message).to_wire()

    @staticmethod
    def _unsigned(data: bytes, code: dns.rcode.Rcode) -> bytes:
        """Return the answer to an update, with its zone and nothing else."""
        zone = data[12 : data.index(b"\0", 12) + 5]
        return data[:2] + struct.pack("!HHHHH", 0xA800 | int(code), 1, 0, 0, 0) + zone

    def _refused(self, data: bytes) -> bytes:
        """Return NOTAUTH with the error BADSIG in a signature that is none, as BIND does (RFC 8945, 5.2.2)."""
        (key,) = self.keys.values()
        name, algorithm = key.name.to_wire(), key.algorithm.to_wire()
        assert name is not None
        assert algorithm is not None
        times = struct.pack("!HIH", 0, int(time.time()), 300)
        signature = algorithm + times + struct.pack("!H", 0) + data[:2] + struct.pack("!HH", 16, 0)
        record = name + struct.pack("!HHIH", 250, 255, 0, len(signature)) + signature
        answer = self._unsigned(data, dns.rcode.NOTAUTH)
        return answer[:10] + b"\0\1" + answer[12:] + record

    def _query(self, message: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(message)
        answer.flags |= dns.flags.AA
        for question in message.question:
            name = str(question.name)
            self.asked.append(name)
            address = self.addresses.get(name)
            if address is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            elif question.rdtype == (dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A):
                answer.answer.append(dns.rrset.from_text(question.name, 5, "IN", question.rdtype, address))
        return answer

    def _update(self, message: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(message)
        if self.refuses is not None or not message.had_tsig or str(message.question[0].name) != self.zone:
            answer.set_rcode(self.refuses or dns.rcode.REFUSED)
            return answer
        for change in message.sections[2]:
            name = str(change.name)
            if change.deleting is not None and change.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                continue  # what it was is replaced by what comes next
            for value in change:
                self.addresses[name] = value.to_text()
                self.updates.append((name, value.to_text()))
        return answer


@dataclass(eq=False)
class Relay(asyncio.DatagramProtocol):
    """Takes packets to *target* and back, each way late by half of `delay_s`, and by up to `jitter_s` more."""

    make: MakeSocket
    target: tuple[str, int]
    delay_s: float = 0.0
    jitter_s: float = 0.0
    carried: int = 0
    _transport: asyncio.DatagramTransport | None = None
    _ways: dict[Any, asyncio.DatagramTransport] = field(default_factory=dict)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what goes back through."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Carry a packet forth."""
        self._later(self._forth, data, addr)

    def _later(self, carry: Callable[[bytes, Any], None], data: bytes, addr: Any) -> None:
        self.carried += 1
        late = self.delay_s / 2 + self.jitter_s * (self.carried % 5) / 4  # a saw's teeth: known, not random
        asyncio.get_running_loop().call_later(late, carry, data, addr)

    def _forth(self, data: bytes, addr: Any) -> None:
        if addr in self._ways:
            self._ways[addr].sendto(data)
        else:
            asyncio.get_running_loop().create_task(self._open(data, addr))

    async def _open(self, data: bytes, addr: Any) -> None:
        way = self.make(socket.AF_INET, socket.SOCK_DGRAM)
        way.settimeout(0)
        way.connect(self.target)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Back(self, addr), sock=way)
        self._ways[addr] = transport
        transport.sendto(data)

    def back(self, data: bytes, addr: Any) -> None:
        """Carry a packet back."""
        self._later(self._back, data, addr)

    def _back(self, data: bytes, addr: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, addr)

    def close(self) -> None:
        """Close the ways that were opened."""
        for way in self._ways.values():
            way.close()


@dataclass
class _Back(asyncio.DatagramProtocol):
    relay: Relay
    to: Any

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.relay.back(data, self.to)


@contextmanager
def datagrams(portal: BlockingPortal, protocol: asyncio.DatagramProtocol, bound: socket.socket) -> Iterator[None]:
    """Have *protocol* speak through *bound*, in the portal's loop."""

    async def begin() -> asyncio.BaseTransport:
        loop = asyncio.get_running_loop()
        bound.settimeout(0)
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=bound)
        return transport

    transport = portal.call(begin)
    try:
        yield
    finally:
        portal.call(transport.close)


Answer = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], str]]


@contextmanager
def web(listening: socket.socket, answer: Answer, *, certificate: tuple[Path, Path] | None = None) -> Iterator[None]:
    """Serve HTTP at a bound socket: *answer* says status, headers and body of each GET.

    With a *certificate* and its key it is HTTPS.
    """

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            if body:
                self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
            pass

    server: HTTPServer = ThreadingHTTPServer(("", 0), Page, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    if certificate is not None:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(*certificate)
        server.socket = trust.wrap_socket(listening, server_side=True)
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
