"""Keeping a name: told when the address changes and not before, remembered, limited; and what its config may be."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from sparkd import ConfigError, Context, Troubles
from sparkd.config import decode_table
from sparkd_plugins.vpn_watchdog.clock import Clock
from sparkd_plugins.vpn_watchdog.name_update import ANSWERS, Outcome
from sparkd_plugins.vpn_watchdog.public_name import Pace, PublicName, PublicNameConfig
from tests.netlab.servers import Names
from tests.plugins.dns_zone import KEY, closed_file, names, secret, serving

pytestmark = pytest.mark.anyio
AGAIN = Outcome(verdict="again", said="it did not work")


@dataclass
class Settable(Clock):
    """Both clocks, by hand."""

    now: float = 1000.0
    offset: float = 1.7e9

    def wall(self) -> float:
        return self.now + self.offset

    def mono(self) -> float:
        return self.now


@dataclass
class Said:
    """The part of a Context that this uses."""

    state_dir: Path
    lines: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    @property
    def log(self) -> Said:
        return self

    def info(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    warning = info

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(reason)

    def recovered(self) -> None:
        self.states.append("well")


@dataclass
class Home:
    """A home with an address, a server that keeps its name, and who keeps that right."""

    said: Said
    held: Names
    port: int
    clock: Settable = field(default_factory=Settable)
    address: str = "80.1.1.10"
    asked: int = 0

    def keeper(self, *, key: str = KEY, **more: Any) -> PublicName:
        config = PublicNameConfig(
            name="hub.lab",
            ask=["peer:primecore"],
            way="rfc2136",
            server="127.0.0.1",
            port=self.port,
            zone="lab",
            key_name="home-key",
            key=secret(key),
            **more,
        )
        ctx = cast("Context[Any]", self.said)
        return PublicName(ctx=ctx, config=config, clock=self.clock, troubles=Troubles(self.said), seen_by=self._seen)

    async def _seen(self, node: str) -> str:
        self.asked += 1
        return self.address


@pytest.fixture
async def home(tmp_path: Path) -> Any:
    held = names()
    async with serving(held) as port:
        yield Home(Said(tmp_path), held, port)


async def test_the_name_follows_the_address_and_is_told_once(home: Home) -> None:
    keeper = home.keeper()
    for address in ("80.1.1.10", "80.1.1.10", "80.1.1.77", "80.1.1.77"):
        home.address = address
        await keeper.look()

    assert home.held.updates == [("hub.lab.", "80.1.1.10"), ("hub.lab.", "80.1.1.77")]
    assert [event for event, _ in home.said.lines] == ["public-name", "public-name"]
    assert home.said.lines[1][1]["before"] == "80.1.1.10"
    assert KEY not in repr(home.said.lines)


async def test_what_was_told_is_remembered_over_a_restart(home: Home) -> None:
    await home.keeper().look()
    again = home.keeper()
    await again._load()
    await again.look()

    assert len(home.held.updates) == 1
    assert again.address == "80.1.1.10"


async def test_a_service_that_is_restarted_again_and_again_hammers_nobody(home: Home) -> None:
    wrong = "YW5vdGhlci1zZWNyZXQtYW5vdGhlci1zZWNyZXQhISE="
    for _ in range(9):
        keeper = home.keeper(key=wrong, updates_per_hour=3)
        await keeper._load()
        await keeper.look()
        home.clock.now += 1.0

    assert [event for event, _ in home.said.lines] == ["public-name-refused"] * 3
    assert len(keeper.pace.tries) == 3
    assert "still stands for" in home.said.states[-1]

    home.clock.now += 3600.0
    assert keeper.pace.wait_s(home.clock.mono()) == 0


async def test_a_damaged_memory_is_none(home: Home) -> None:
    file = home.said.state_dir / "public-name.json"
    for text in (
        "",
        "{",
        "[]",
        '{"name": "hub.lab", "record": "A", "address": "x", "told_at": 1, "tries": []}',
        "null",
    ):
        file.write_text(text)
        keeper = home.keeper()
        await keeper._load()
        assert keeper.address == ""


async def test_an_address_that_is_not_known_is_a_state_with_its_reason(home: Home) -> None:
    keeper = home.keeper()
    home.address = "100.64.7.7"
    await keeper.look()
    home.address = "80.1.1.10"
    await keeper.look()

    assert "carrier-grade NAT" in home.said.states[0]
    assert home.said.states[-1] == "well"


async def test_the_name_is_told_again_before_a_provider_forgets_it(home: Home) -> None:
    keeper = home.keeper(refresh_days=25.0)
    await keeper.look()
    home.clock.now += 24 * 86_400.0
    await keeper.look()
    assert len(home.held.updates) == 1
    home.clock.now += 2 * 86_400.0
    await keeper.look()
    assert len(home.held.updates) == 2


async def test_a_hurry_has_it_looked_at_now(home: Home) -> None:
    keeper = home.keeper(interval_s=0.05)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        with anyio.fail_after(5):
            while home.asked < 3:
                keeper.hurry.set()
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert len(home.held.updates) == 1


def pace(**more: Any) -> Pace:
    return Pace(**{"per_hour": 3, "retry_s": 60.0, "retry_most_s": 200.0, **more})


def test_failures_are_tried_ever_more_slowly() -> None:
    one, now, waits = pace(per_hour=100), 0.0, []
    for _ in range(4):
        one.note(AGAIN, now)
        waits.append(one.wait_s(now))
        now += waits[-1]
    assert waits == [60, 120, 200, 200]
    one.note(ANSWERS["good"], now)
    assert one.wait_s(now) == 0


def test_the_provider_may_ask_for_more_time_but_not_for_ever() -> None:
    one = pace()
    one.note(ANSWERS["911"], 0.0)
    assert one.wait_s(0.0) == 1800
    one.note(Outcome(verdict="again", said="", wait_s=1e9), 0.0)
    assert one.wait_s(0.0) == 86_400


def test_so_many_tries_an_hour_also_if_all_end_well() -> None:
    one = pace()
    for now in (0.0, 10.0, 20.0):
        assert one.wait_s(now) == 0
        one.tries.append(now)
        one.note(ANSWERS["nochg"], now)
    assert one.wait_s(30.0) == 3570.0
    assert one.wait_s(3601.0) == 0


@pytest.mark.parametrize("word", ["badauth", "abuse", "nohost", "notfqdn", "badagent"])
def test_who_is_refused_for_good_does_not_ask_again(word: str) -> None:
    one = pace()
    one.note(ANSWERS[word], 0.0)
    assert one.wait_s(1e9) == math.inf


def test_the_sample_shows_every_key_and_both_ways_as_they_are_taken(tmp_path: Path) -> None:
    sample = (Path(__file__).parents[2] / "etc/sparkd.d/vpn-watchdog.toml").read_text()
    shown = sample.partition("[plugins.vpn-watchdog.public_name]\n")[2].partition("# public_name")[0]
    lines = [line.removeprefix("##").strip() for line in shown.splitlines()]
    url = tomllib.loads("\n".join(line for line in lines if not line.startswith("#")))
    both = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines if not line.startswith("way")))
    named = {"file": str(closed_file(tmp_path, "dXNlcjp3b3Jk"))}

    assert {field.name for field in fields(PublicNameConfig)} == {*both, *url, "ca"}
    made = decode_table(PublicNameConfig, {**url, "login": named}, where="public_name")
    signed = decode_table(PublicNameConfig, {**both, "login": named, "key": named}, where="public_name")
    for key, default in ((f.name, f.default) for f in fields(PublicNameConfig)):
        if key not in {"name", "ask", "url", "login", "key", "server", "zone", "key_name", "way"}:
            assert getattr(made, key) == getattr(signed, key) == default
    assert signed.way == "rfc2136"


DYNDNS: dict[str, Any] = {
    "name": "home.example.org",
    "ask": ["https://ip.example.org/"],
    "url": "https://dyn.example.org/nic/update?hostname={name}&myip={address}",
}
RFC2136: dict[str, Any] = {
    "name": "home.example.org",
    "ask": ["peer:primecore", "router", "router:192.168.1.1"],
    "way": "rfc2136",
    "server": "ns.example.org",
    "zone": "example.org",
    "key_name": "home",
}


@pytest.fixture
def held(tmp_path: Path) -> dict[str, str]:
    return {"file": str(closed_file(tmp_path, "user:word"))}


def test_both_ways_are_configured_with_secrets_by_name(held: dict[str, str]) -> None:
    url = decode_table(PublicNameConfig, {**DYNDNS, "login": held}, where="public_name")
    signed = decode_table(PublicNameConfig, {**RFC2136, "key": held}, where="public_name")

    assert url.login is not None
    assert url.login.reveal() == "user:word"
    assert "user:word" not in repr(url) + repr(signed)


@pytest.mark.parametrize(
    ("base", "change", "why"),
    [
        (DYNDNS, {"url": "http://dyn.example.org/?{name}{address}"}, "https://"),
        (DYNDNS, {"url": "https://user:word@dyn.example.org/?{name}{address}"}, "no login"),
        (DYNDNS, {"url": "https://dyn.example.org/"}, "{name} and {address}"),
        (DYNDNS, {"url": "https://dyn.example.org:port/?{name}{address}"}, "not a URL"),
        (DYNDNS, {"url": "https://[dyn/?{name}{address}"}, "not a URL"),
        (DYNDNS, {"url": "https://dyn.example.org/ x\n?{name}{address}"}, "not a URL"),
        (DYNDNS, {"ask": ["https://ip.example.org:99999/"]}, "not a URL"),
        (DYNDNS, {"ask": []}, "who tells the address"),
        (DYNDNS, {"ask": ["ftp://x"]}, "'peer:NODE'"),
        (DYNDNS, {"ask": ["router:fritz.box"]}, "'peer:NODE'"),
        (DYNDNS, {"ask": ["peer:No Node"]}, "'peer:NODE'"),
        (DYNDNS, {"ask": ["https://a@b/"]}, "'peer:NODE'"),
        (DYNDNS, {"name": "home"}, "full name"),
        (DYNDNS, {"name": "home.example.org\nX: y"}, "full name"),
        (DYNDNS, {"login": "user:word"}, "named, not written"),
        (DYNDNS, {"updates_per_hour": 0}, "positive"),
        (RFC2136, {"key_name": ""}, "is needed"),
        (RFC2136, {"server": ""}, "is needed"),
        (RFC2136, {"zone": "example.net"}, "not in the zone"),
        (RFC2136, {"name": "homeexample.org"}, "not in the zone"),
        (RFC2136, {"port": 70_000}, "65535"),
    ],
)
def test_what_cannot_work_is_refused(held: dict[str, str], base: Any, change: Any, why: str) -> None:
    table = {**base, "login": held} if base is DYNDNS else {**base, "key": held}
    with pytest.raises(ConfigError, match=why.replace("{", r"\{")) as refused:
        decode_table(PublicNameConfig, {**table, **change}, where="public_name")
    assert "user:word" not in str(refused.value) or change.get("url")


def test_secrets_are_needed() -> None:
    for table, key in ((DYNDNS, "login"), (RFC2136, "key")):
        with pytest.raises(ConfigError, match=f"{key}: is needed"):
            decode_table(PublicNameConfig, table, where="public_name")
