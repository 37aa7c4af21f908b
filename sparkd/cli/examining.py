"""`sparkctl doctor` and `sparkctl support-bundle`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparkd.cli.parser import Subparsers
    from sparkd.doctor import Finding, Scene

SIGNS = {"ok": "✓", "note": "·", "warning": "▲", "problem": "●", "skipped": " "}


def words(commands: Subparsers) -> None:
    """Add the two commands."""
    doctor = commands.add_parser("doctor", help="what is wrong with this machine as a node, and what to do")
    doctor.add_argument("--all", action="store_true", help="also what is well, and what could not be looked at")
    doctor.add_argument("--hailo", action="store_true", help="only the accelerator, and what its library says of it")
    doctor.add_argument("--respeaker", action="store_true", help="only the microphone array: what it says and hears")
    bundle = commands.add_parser(
        "support-bundle", help="what somebody who helps must know, in one file, without secrets"
    )
    bundle.add_argument("file", nargs="?", default="", metavar="FILE", help="default: sparkd-support-NODE-TIME.tar.gz")


def doctor(options: argparse.Namespace) -> int:
    """Look at everything and print what is not well; with --all, everything."""
    from sparkd.cli.parser import NOT_WELL  # noqa: PLC0415 - it imports us
    from sparkd.doctor import CHECKS, HAILO_CHECKS, RESPEAKER_CHECKS, examine  # noqa: PLC0415 - brings much

    scene, found = _scene(options)
    special = (HAILO_CHECKS if options.hailo else ()) + (RESPEAKER_CHECKS if options.respeaker else ())
    found += examine(scene, special or CHECKS)
    bad = [finding for _, finding in found if finding.verdict == "problem"]
    if options.json:
        rows = [{"check": name, "verdict": f.verdict, "text": f.text, "remedy": f.remedy} for name, f in found]
        print(json.dumps(rows))
        return NOT_WELL if bad else 0
    for name, finding in found:
        if options.all or special or finding.verdict in ("problem", "warning", "note"):
            print(f"{SIGNS[finding.verdict]} {name}: {finding.text}")
            if finding.remedy:
                print(f"    {finding.remedy}")
    counts = {
        verdict: sum(f.verdict == verdict for _, f in found) for verdict in ("problem", "warning", "ok", "skipped")
    }
    print(
        f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} well, "
        f"{counts['skipped']} could not be looked at"
    )
    return NOT_WELL if bad else 0


def support_bundle(options: argparse.Namespace) -> int:
    """Write the bundle."""
    from sparkd.cli.offline import say  # noqa: PLC0415 - brings the config
    from sparkd.doctor.bundle import write_bundle  # noqa: PLC0415 - brings much

    scene, _ = _scene(options)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = Path(options.file or f"sparkd-support-{scene.config.node.name}-{stamp}.tar.gz")
    count, hidden = write_bundle(scene, target)
    text = f"{target}: {count} files, {hidden} places with secrets hidden. Look into it before you send it."
    say(options, {"file": str(target), "files": count, "hidden": hidden}, text)
    return 0


def _scene(options: argparse.Namespace) -> tuple[Scene, list[tuple[str, Finding]]]:
    """Return the machine to look at. A config that cannot be used is a finding, and the rest goes by the defaults."""
    from sparkd.cli.tables import check_plugins  # noqa: PLC0415 - forks
    from sparkd.config import Config, load_places, places  # noqa: PLC0415 - not needed by others
    from sparkd.doctor.scene import Scene, ok, problem  # noqa: PLC0415 - likewise
    from sparkd.errors import ConfigError  # noqa: PLC0415 - likewise

    try:
        config, found = load_places(options.config)
    except ConfigError as error:
        config, found = Config(), places(Config().node, options.config)
        return Scene(config=config, places=found), [("config", problem(text, "mend it")) for text in error.problems]
    findings = [("config", problem(text, "sparkctl check")) for text in check_plugins(config, found)]
    return Scene(config=config, places=found), findings or [
        ("config", ok(f"{len(config.plugins)} plugins, no problems"))
    ]
