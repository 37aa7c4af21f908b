"""What waits for something goes on when the kernel tells that it has come, without anybody looking in between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest

from sparkd import State
from sparkd.daemon.needs import Needs, needs, tidings
from sparkd.daemon.needs.looks import Lack
from sparkd.needs import Need, NeedKind
from sparkd.service import Manifest
from sparkd.supervisor import End, EndKind, Plan, Supervised, Supervisor
from tests.supervisor.script import Script, Scripted, service

pytestmark = pytest.mark.anyio
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, or make a namespace")


class Home:
    """A node of one service."""

    def __init__(self, *wanted: str, stop: bool = False, providers: tuple[str, ...] = ()) -> None:
        self.script = Script(*(Scripted() for _ in range(9)))
        self.watched = service(self.script)
        self.watched.plan = replace(self.watched.plan, needs=wanted, stop_without_needs=stop)
        self.problems: dict[str, str] = {}
        self.others: dict[str, Supervised] = {}
        self._providers = list(providers)
        self.needs = Needs(self)
        self.watched.missing = self.needs.missing
        self.news = anyio.Event()

    def services(self) -> dict[str, Supervised]:
        return {self.watched.name: self.watched, **self.others}

    def providers(self, interface: str) -> list[str]:
        return self._providers

    async def synced(self) -> None:
        await self.news.wait()
        self.news = anyio.Event()

    def tell(self, what: str, problem: str) -> None:
        self.problems[what] = problem

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Home]:
        async with Supervisor().open() as supervisor, anyio.create_task_group() as tasks:
            tasks.start_soon(self.needs.follow)
            supervisor.add(self.watched)
            await supervisor.attempted()
            with anyio.fail_after(5):
                yield self
            tasks.cancel_scope.cancel()

    async def until(self, state: State) -> None:
        await self.script.until(self.watched, state)


async def test_a_path_deep_in_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b" / "c"
    async with Home(f"path:{wanted}").running() as home:
        assert home.watched.state is State.WAITING
        assert home.watched.end.reason == f"needs {wanted}, which is not there"
        assert home.watched.end.remedy
        wanted.parent.mkdir(parents=True)
        wanted.touch()
        await home.until(State.RUNNING)


async def test_a_path_that_is_renamed_into_place_and_one_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "new").touch()
    async with Home(f"path:{tmp_path / 'link' / 'here'}").running() as home:
        await anyio.sleep(0.2)  # a moment in which a watch on the wrong folder would be set
        (tmp_path / "new").rename(tmp_path / "real" / "here")
        await home.until(State.RUNNING)


async def test_all_that_is_missing_is_named_and_what_has_come_no_more(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with Home(f"path:{first}", f"path:{second}", "service:other").running() as home:
        reason = home.watched.end.reason
        assert all(word in reason for word in (str(first), str(second), "'other'"))
        first.touch()
        while str(first) in home.watched.end.reason:
            await anyio.sleep(0.01)
        assert home.watched.state is State.WAITING
        assert str(second) in home.watched.end.reason


async def test_what_runs_goes_on_without_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    wanted = tmp_path / "x"
    wanted.touch()
    async with Home(f"path:{wanted}", stop=True).running() as home, Home(f"path:{wanted}").running() as other:
        await home.until(State.RUNNING)
        await other.until(State.RUNNING)
        wanted.unlink()
        await home.until(State.WAITING)
        assert other.watched.state is State.RUNNING
        wanted.touch()
        await home.until(State.RUNNING)
        assert home.watched.restarts == 0, "nobody's failure"


async def test_needs_that_a_reload_brings_are_followed(tmp_path: Path) -> None:
    home = Home()
    async with home.running():
        await home.until(State.RUNNING)
        home.watched.replan(replace(home.watched.plan, needs=(f"path:{tmp_path / 'late'}",)))
        home.watched.ask_restart()
        await home.until(State.WAITING)
        home.news.set()
        await anyio.sleep(0.1)
        (tmp_path / "late").touch()
        await home.until(State.RUNNING)


async def test_an_interface_waits_for_its_provider() -> None:
    home = Home("interface:vision", providers=("eye",))
    eye = service(Script(Scripted()))
    eye.plan = replace(eye.plan, manifest=replace_name(eye.plan, "eye"))
    home.others["eye"] = eye
    async with home.running():
        assert "serves 'vision'" in home.watched.end.reason
        assert "eye would" in home.watched.end.reason
        eye.state = State.RUNNING
        await home.needs.reconsider({NeedKind.INTERFACE})
        await home.until(State.RUNNING)


def replace_name(plan: Plan, name: str) -> Manifest:
    return msgspec.structs.replace(plan.manifest, name=name)


async def test_a_look_that_never_ends_holds_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "LOOK_LIMIT_S", 0.1)
    home = Home("path:/dead")
    read, write = os.pipe()

    def hangs(_need: Need) -> Lack | None:
        os.read(read, 1)
        return None

    home.needs = Needs(home, look=hangs)
    try:
        assert (await home.needs.missing(home.watched.plan) or End(kind=EndKind.STOPPED)).reason == (
            "needs /dead, which does not answer"
        )
    finally:
        os.close(write)


@root_only
async def test_a_mount_that_comes_and_goes(tmp_path: Path) -> None:
    place = tmp_path / "nas"
    place.mkdir()
    async with Home(f"mount:{place}:rw", stop=True).running() as home:
        assert "nothing is mounted" in home.watched.end.reason
        await anyio.run_process(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(place)])
        try:
            while "read-only" not in home.watched.end.reason:
                await anyio.sleep(0.01)
            await anyio.run_process(["mount", "-o", "remount,rw", str(place)])
            await home.until(State.RUNNING)
        finally:
            await anyio.run_process(["umount", str(place)])
        await home.until(State.WAITING)


@root_only
async def test_the_kernel_tells_of_devices() -> None:
    event = Path("/sys/devices/virtual/mem/null/uevent")
    if not os.access(event, os.W_OK):
        pytest.skip("this kernel does not let us make an event")
    told: list[None] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tidings.of_devices, lambda: told.append(None))
            while not told:
                await anyio.sleep(0)
            event.write_text("change")
            while len(told) < 2:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


IN_NAMESPACE = """\
import subprocess, sys
import anyio
from sparkd import State
from tests.needs.test_needs_follow import Home

async def main():
    async with Home("network:lo", stop=True).running() as link, Home("network").running() as out:
        assert "not up" in link.watched.end.reason, link.watched.end
        assert "no route out" in out.watched.end.reason, out.watched.end
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        await link.until(State.RUNNING)
        assert out.watched.state is State.WAITING
        subprocess.run(["ip", "route", "add", "default", "dev", "lo"], check=True)
        await out.until(State.RUNNING)
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
        await link.until(State.WAITING)
    print("well")

anyio.run(main)
"""


@root_only
def test_interfaces_and_routes_in_a_network_of_their_own() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", IN_NAMESPACE],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
        pytest.skip("no namespaces here")
    assert done.stdout == "well\n", done.stderr[-3000:]


async def test_a_listener_that_cannot_listen_is_told_and_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(needs, "AGAIN_S", 0.05)

    async def of_paths(_paths: object, _tell: object) -> None:
        raise OSError(28, "no watch left")

    monkeypatch.setattr(tidings, "of_paths", of_paths)
    async with Home(f"path:{tmp_path / 'x'}").running() as home:
        while not home.problems.get("of_paths"):
            await anyio.sleep(0.01)
        assert "no watch left" in home.problems["of_paths"]
        (tmp_path / "x").touch()
        await home.until(State.RUNNING)
