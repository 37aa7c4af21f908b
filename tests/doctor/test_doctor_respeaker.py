"""`sparkctl doctor --respeaker`: rule, rights, and what the array answers and hears."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparkd.cli.main import main
from sparkd.doctor import Finding, Verdict, examine, hardware, microphones
from sparkd.doctor.scene import Scene, run
from sparkd.testing.respeaker import FakeArray
from sparkd_plugins.respeaker_voice.ask import ask
from sparkd_plugins.respeaker_voice.board import Board
from sparkd_plugins.respeaker_voice.microphone import MicrophoneConfig
from tests.doctor.test_doctor import ARRAY, Machine

USB = {"kind": "xvf3000", "firmware": "3", "degrees": 270, "speech": True}
SOUND = {"channels": 6, "raw": 4, "dbfs": [-40, -52, -51, -53, -52, -116]}


def said(machine: Machine, usb: object = USB, sound: object = SOUND) -> list[Finding]:
    machine.commands["/"] = "a warning of a library\n" + json.dumps({"usb": usb, "sound": sound}) + "\n"
    return [finding for _, finding in examine(machine.scene(), microphones.CHECKS)]


@pytest.fixture
def pi(tmp_path: Path) -> Machine:
    return Machine(tmp_path).has(ARRAY)


def test_an_array_in_good_health_says_where_it_hears_a_voice(pi: Machine) -> None:
    usb, sound = said(pi)
    assert (usb.verdict, sound.verdict) == (Verdict.OK, Verdict.OK)
    assert usb.text == "USB: an xvf3000 with firmware 3; it hears a voice, at 270 degrees"
    assert sound.text == "sound: 6 channels, 4 of them raw; dBFS -40, -52, -51, -53, -52, -116"


def test_what_fails_is_a_problem_with_its_remedy_and_a_dead_microphone_a_warning(pi: Machine) -> None:
    usb, sound = said(pi, {"error": "this user may not", "remedy": "rule"}, {**SOUND, "dbfs": [-40, -52, -118]})
    assert (usb.verdict, usb.remedy) == (Verdict.PROBLEM, "rule")
    assert sound.verdict is Verdict.WARNING
    assert "nothing at all on 2" in sound.text
    (_, sound) = said(pi, USB, {"error": "busy", "remedy": "fuser"})
    assert sound.verdict is Verdict.PROBLEM


def test_a_machine_without_one_is_none_to_judge(tmp_path: Path) -> None:
    scene = Machine(tmp_path).scene()
    real = Scene(config=scene.config, places=scene.places, root=scene.root, run=run)
    ((_, found),) = examine(real, microphones.CHECKS)
    assert found.verdict is Verdict.SKIPPED


def test_the_rule_is_missed_where_there_is_an_array(pi: Machine) -> None:
    ((_, found),) = examine(pi.scene(), (hardware.udev_rules,))
    assert found.verdict is Verdict.WARNING
    assert "60-sparkd-respeaker.rules" in found.remedy
    rule = pi.root / "etc/udev/rules.d" / hardware.RESPEAKER_RULE
    rule.parent.mkdir(parents=True)
    rule.write_bytes((Path(__file__).parents[2] / "etc/udev" / hardware.RESPEAKER_RULE).read_bytes())
    ((_, found),) = examine(pi.scene(), (hardware.udev_rules,))
    assert found.verdict is Verdict.OK


def test_the_command_looks_at_the_array_only(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--respeaker", "--json"])
    names = {row["check"] for row in json.loads(capsys.readouterr().out)}
    assert {"respeaker", "udev rules", "respeaker, asked"} <= names
    assert "memory" not in names


@pytest.mark.anyio
async def test_what_is_asked_is_the_shipped_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.random.default_rng(1).normal(0, 3276.8, (16_000, 6)).astype(np.int16)
    (tmp_path / "six.raw").write_bytes(raw.tobytes())
    (tmp_path / "asound.conf").write_text(
        "pcm.nothing { type null }\n"
        f'pcm.six {{ type file slave.pcm "nothing" file "/dev/null" infile "{tmp_path}/six.raw" format "raw" }}\n'
    )
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
    answer = await ask(Board(FakeArray(registers={(21, 0): 45})), MicrophoneConfig(device="six"))
    assert answer["usb"] == {"kind": "xvf3000", "firmware": "3", "degrees": 45, "speech": True}
    assert answer["sound"] == {"channels": 6, "raw": 4, "dbfs": [-20] * 6}
    missing = await ask(Board(FakeArray(plugged=False)), MicrophoneConfig(device="none"))
    assert "no ReSpeaker" in missing["usb"]["error"]
    assert missing["sound"]["remedy"]
