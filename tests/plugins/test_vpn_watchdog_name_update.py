"""Updates of a name, against a DNS server that checks signatures and an HTTP server that checks logins."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import dns.rcode
import pytest

from sparkd_plugins.vpn_watchdog import name_update
from sparkd_plugins.vpn_watchdog.name_update import ANSWERS, read_answer, update
from sparkd_plugins.vpn_watchdog.public_name import PublicNameConfig
from sparkd_plugins.vpn_watchdog.web_get import Answer, get
from tests.netlab.servers import web
from tests.plugins.dns_zone import KEY, names, secret, serving

pytestmark = pytest.mark.anyio
LOGIN = "user:pass-word-0815"


def signed(port: int, *, key: str = KEY, **more: object) -> PublicNameConfig:
    config = PublicNameConfig(
        name="hub.lab",
        ask=["router"],
        way="rfc2136",
        server="127.0.0.1",
        port=port,
        zone="lab",
        key_name="home-key",
        key=secret(key),
    )
    return replace(config, **more)  # type: ignore[arg-type] # fields by name


def by_url(url: str, *, ca: Path | None = None) -> PublicNameConfig:
    return PublicNameConfig(name="hub.lab", ask=["router"], url=url, login=secret(LOGIN), ca=ca)


async def test_a_signed_update_changes_the_name() -> None:
    held = names()
    async with serving(held) as port:
        outcome = await update(signed(port), "80.1.1.77")

    assert outcome == ANSWERS["good"]
    assert held.addresses == {"hub.lab.": "80.1.1.77"}
    assert held.updates == [("hub.lab.", "80.1.1.77")]


async def test_an_address_of_ipv6_is_told_too() -> None:
    held = names()
    async with serving(held) as port:
        outcome = await update(signed(port, record="AAAA", ttl_s=30), "2a00:1::7")

    assert outcome.verdict == "done"
    assert held.addresses["hub.lab."] == "2a00:1::7"


async def test_a_wrong_key_changes_nothing_and_is_not_told() -> None:
    held = names()
    wrong = base64.b64encode(b"another-secret-another-secret!!!").decode()
    async with serving(held) as port:
        outcome = await update(signed(port, key=wrong), "80.1.1.77")

    assert outcome.verdict == "again"
    assert outcome.said == "127.0.0.1 did not take our signature: PeerBadSignature"
    assert "home-key" in outcome.remedy
    assert wrong not in repr(outcome)
    assert held.updates == []


async def test_a_key_that_is_no_key_is_a_sentence() -> None:
    outcome = await update(signed(53, key="no base64 at all!"), "80.1.1.77")

    assert outcome.verdict == "again"
    assert "base64" in outcome.remedy
    assert "no base64 at all" not in repr(outcome)


async def test_a_refusal_and_silence_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_update, "ANSWER_LIMIT_S", 0.3)
    held = names()
    held.refuses = dns.rcode.REFUSED
    async with serving(held) as port:
        refused = await update(signed(port), "80.1.1.77")
        held.silent = True
        silent = await update(signed(port), "80.1.1.77")

    assert (refused.verdict, refused.said) == ("again", "127.0.0.1 answered REFUSED")
    assert (silent.verdict, silent.said) == ("again", "127.0.0.1 did not answer")


async def test_an_answer_that_is_not_signed_is_none() -> None:
    held = names()
    held.unsigned = True
    async with serving(held) as port:
        outcome = await update(signed(port), "80.1.1.77")

    assert outcome.verdict == "again"
    assert "not signed" in outcome.said


async def test_garbage_for_an_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_update, "ANSWER_LIMIT_S", 0.3)
    held = names()
    async with serving(held) as port:
        for garbage in (b"", b"\0", b"\0\0\xa8\0" + b"\xff" * 40, b"\xff" * 700):
            held.garbage = garbage
            outcome = await update(signed(port), "80.1.1.77")
            assert outcome.verdict == "again"


async def test_without_dnspython_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.exception", None)

    outcome = await update(signed(53), "80.1.1.77")

    assert outcome.verdict == "again"
    assert outcome.remedy == "pip install 'sparkd[vpn]'"


@contextmanager
def provider(say: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], str]]) -> Iterator[str]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    with web(listening, say):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/nic/update?hostname={{name}}&myip={{address}}"


async def test_a_dyndns2_url_gets_name_address_and_login() -> None:
    asked: list[tuple[str, str]] = []

    def say(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], str]:
        asked.append((request.path, request.headers["Authorization"]))
        return 200, {}, "good 80.1.1.77\r\n"

    with provider(say) as url:
        outcome = await update(by_url(url), "80.1.1.77")

    assert outcome == ANSWERS["good"]
    login = "Basic " + base64.b64encode(LOGIN.encode()).decode()
    assert asked == [("/nic/update?hostname=hub.lab&myip=80.1.1.77", login)]


@pytest.mark.parametrize(
    ("status", "body", "verdict", "said", "wait_s"),
    [
        (200, "good 1.2.3.4", "done", "updated", 0),
        (200, "nochg", "done", "already", 0),
        (200, "badauth", "never", "login", 0),
        (401, "", "never", "login", 0),
        (401, "badauth", "never", "login", 0),
        (403, "go away", "never", "login", 0),
        (200, "abuse", "never", "abuse", 0),
        (200, "nohost", "never", "no such name", 0),
        (200, "911", "again", "provider", 1800),
        (500, "911", "again", "provider", 1800),
        (500, "good", "again", "answered 500", 0),
        (429, "", "again", "answered 429", 77),
        (302, "", "never", "elsewhere", 0),
        (200, "", "again", "no word", 0),
        (200, "<html>welcome</html>", "again", "no word", 0),
    ],
)
async def test_each_answer_of_a_provider_is_understood(
    status: int, body: str, verdict: str, said: str, wait_s: float
) -> None:
    headers = {"Retry-After": "77"} if status == 429 else {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
    with provider(lambda _: (status, headers, body)) as url:
        outcome = await update(by_url(url), "80.1.1.77")

    assert (outcome.verdict, outcome.wait_s) == (verdict, wait_s)
    assert said in outcome.said
    assert LOGIN not in repr(outcome)


def test_garbage_of_any_length_is_read() -> None:
    for body in ("", " ", "\0\xff" * 2000, "good" * 500, "GOOD 1"):
        assert read_answer(Answer(status=200, body=body)).verdict in {"again", "done"}


async def test_a_provider_that_is_not_there_is_to_be_asked_again() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/{{name}}{{address}}"
        outcome = await update(by_url(url), "80.1.1.77")

    assert outcome.verdict == "again"
    assert "127.0.0.1 cannot be asked" in outcome.said


async def test_https_is_checked_against_the_trusted_certificates(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=it"
    subprocess.run(
        ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listening.getsockname()[1]}/{{name}}{{address}}"
    with web(listening, lambda _: (200, {}, "nochg 80.1.1.77"), certificate=(certificate, key)):
        trusted = await update(by_url(url, ca=certificate), "80.1.1.77")
        strange = await update(by_url(url), "80.1.1.77")
    no_file = await update(by_url(url, ca=tmp_path / "none.pem"), "80.1.1.77")

    assert trusted == ANSWERS["nochg"]
    assert strange.verdict == "again"
    assert "CERTIFICATE_VERIFY_FAILED" in strange.said
    assert "none.pem" in no_file.said


async def test_a_page_without_end_is_cut() -> None:
    with provider(lambda _: (200, {}, "x" * 100_000)) as url:
        answer = await get(url, limit_s=5)

    assert len(answer.body) == 4096
