"""Telling the DNS that a name stands for another address: by RFC 2136, signed, or by a DynDNS2 URL.

Both end in an `Outcome`: what was answered, and whether and when one may ask again. Neither raises for what a server
says, and no message has a secret in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import anyio
import anyio.to_thread

from sparkd import DeviceError, Secret

from .web_get import Answer, get

if TYPE_CHECKING:
    from .public_name import PublicNameConfig

LIMIT_S = 15.0
ANSWER_LIMIT_S = 5.0
DOWN_S = 1800.0
"""After `911` and `dnserr`: the protocol wants half an hour at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an update ended."""

    verdict: Literal["done", "again", "never"]
    """`never`: until somebody changes the config; asking again would get the account blocked."""
    said: str
    remedy: str = ""
    wait_s: float = 0.0
    """At least so long until the next try."""


_LOGIN = "look at `login` and at the account"
_NAME = "look at `name` and at the account"
ANSWERS: dict[str, Outcome] = {
    "good": Outcome(verdict="done", said="the name was updated"),
    "nochg": Outcome(verdict="done", said="the name stood for that address already"),
    "badauth": Outcome(verdict="never", said="the login was refused", remedy=_LOGIN),
    "!donator": Outcome(verdict="never", said="the account may not do that", remedy=_LOGIN),
    "notfqdn": Outcome(verdict="never", said="the name is not a full one", remedy=_NAME),
    "nohost": Outcome(verdict="never", said="there is no such name in the account", remedy=_NAME),
    "numhost": Outcome(verdict="never", said="there are too many names in one update", remedy=_NAME),
    "abuse": Outcome(verdict="never", said="the name is blocked for abuse", remedy="ask the provider to lift it"),
    "badagent": Outcome(verdict="never", said="this program is refused", remedy="ask the provider why"),
    "dnserr": Outcome(verdict="again", said="the provider's DNS is in trouble", wait_s=DOWN_S),
    "911": Outcome(verdict="again", said="the provider is in trouble", wait_s=DOWN_S),
}
"""The words of the protocol (help.dyn.com, "Return Codes"), as providers after it have them."""


async def update(config: PublicNameConfig, address: str) -> Outcome:
    """Have the name stand for *address*. What cannot be reached is to be tried again."""
    try:
        with anyio.fail_after(LIMIT_S):
            return await (_by_dyndns2 if config.way == "dyndns2" else _by_rfc2136)(config, address)
    except TimeoutError:
        return Outcome(verdict="again", said=f"no answer within {LIMIT_S:g} s")
    except DeviceError as error:
        return Outcome(verdict="again", said=str(error), remedy=error.remedy)


async def _by_dyndns2(config: PublicNameConfig, address: str) -> Outcome:
    url = config.url.replace("{name}", quote(config.name, safe="")).replace("{address}", quote(address, safe=""))
    return read_answer(await get(url, limit_s=LIMIT_S, login=config.login, ca=config.ca))


def read_answer(answer: Answer) -> Outcome:
    """Return what a DynDNS2 server means."""
    words = answer.body.split()
    known = ANSWERS.get(words[0].lower()) if words else None
    if known is not None and (answer.status < 400 or known.verdict != "done"):  # noqa: PLR2004 - HTTP: an error
        return known
    if answer.status in {401, 403}:
        return ANSWERS["badauth"]
    if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP: go elsewhere
        return Outcome(
            verdict="never",
            said=f"it answered {answer.status}, which would take the login elsewhere",
            remedy="look at `url`",
        )
    said = f"it answered {answer.status}" + ("" if answer.status >= 400 else " and no word of the protocol")  # noqa: PLR2004
    return Outcome(verdict="again", said=said, wait_s=answer.retry_after_s)


async def _by_rfc2136(config: PublicNameConfig, address: str) -> Outcome:
    dns = _dnspython()  # which takes no answer for one that is not signed as the question was
    message = _message(dns, config, address)
    server = await _server(config.server)
    work = partial(dns.query.udp, message, server, timeout=ANSWER_LIMIT_S, port=config.port, ignore_unexpected=True)
    try:
        answer = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except dns.exception.DNSException as error:
        return _misunderstood(dns, error, config)
    except OSError as error:
        raise DeviceError(f"{config.server} cannot be asked: {error.strerror}") from None
    code = answer.rcode()
    if code == dns.rcode.NOERROR:
        return ANSWERS["good"]
    return Outcome(
        verdict="again",
        said=f"{config.server} answered {dns.rcode.to_text(code)}",
        remedy=f"look at what it allows the key {config.key_name} in {config.zone}",
    )


def _message(dns: Any, config: PublicNameConfig, address: str) -> Any:
    assert isinstance(config.key, Secret)  # noqa: S101 - the config was checked
    try:
        keyring = dns.tsigkeyring.from_text({config.key_name: (config.key_algorithm, config.key.reveal().strip())})
        message = dns.update.UpdateMessage(config.zone, keyring=keyring)
        name = dns.name.from_text(config.name)
        message.replace(name.relativize(dns.name.from_text(config.zone)), config.ttl_s, config.record, address)
    except (dns.exception.DNSException, ValueError) as error:  # such as a key that is no base64
        raise DeviceError(
            f"no update can be made for {config.name}: {type(error).__name__}",
            remedy="look at `zone`, `name`, `key_name` and the key, which is base64",
        ) from None
    return message


async def _server(host: str) -> str:
    """Return an address of *host*."""
    try:
        found = await anyio.getaddrinfo(host, None)
    except OSError as error:
        raise DeviceError(f"{host} has no address: {error.strerror}", remedy="look at `server`") from None
    return str(found[0][4][0])


def _misunderstood(dns: Any, error: Exception, config: PublicNameConfig) -> Outcome:
    if isinstance(error, dns.exception.Timeout):
        return Outcome(
            verdict="again", said=f"{config.server} did not answer", remedy="look at `server`, and its rules"
        )
    if isinstance(error, dns.tsig.PeerBadTime):
        return Outcome(verdict="again", said=f"{config.server} has another time", remedy="set both clocks right")
    refused = isinstance(error, dns.tsig.PeerError)
    what = "did not take our signature" if refused else "gave an answer that is not signed, or none"
    return Outcome(
        verdict="again",
        said=f"{config.server} {what}: {type(error).__name__}",
        remedy=f"look at `server`, `zone`, the key {config.key_name}, its algorithm, and the clocks",
    )


def _dnspython() -> Any:
    try:
        import dns.exception  # noqa: PLC0415 - who does not use it need not have it
        import dns.name  # noqa: PLC0415 - likewise
        import dns.query  # noqa: PLC0415 - likewise
        import dns.rcode  # noqa: PLC0415 - likewise
        import dns.tsig  # noqa: PLC0415 - likewise
        import dns.tsigkeyring  # noqa: PLC0415 - likewise
        import dns.update  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise DeviceError(f"dnspython cannot be imported: {error}", remedy="pip install 'sparkd[vpn]'") from error
    return dns
