"""Stand-in for `wg`, with wg's own form of output. A peer answers only at the endpoint that the test says is right.

Its world is the JSON file beside it, changed under a lock. Standard library only.
"""

import fcntl
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(sys.argv[0]).resolve().parent
WORDS = sys.argv[1:]


def shown(world: dict[str, Any], word: str) -> str:
    if word == "listen-port":
        return f"{world['port']}\n"
    lines = []
    for key, peer in world["peers"].items():
        value = {
            "peers": "",
            "latest-handshakes": f"\t{peer['epoch']}",
            "transfer": f"\t{peer['received']}\t{peer['sent']}",
            "endpoints": f"\t{peer['endpoint'] or '(none)'}",
            "persistent-keepalive": f"\t{peer['keepalive'] or 'off'}",
            "allowed-ips": f"\t{peer['allowed']}",
        }[word]
        lines.append(f"{key}{value}\n")
    return "".join(lines)


def flow(world: dict[str, Any]) -> None:
    """Let time pass: each peer is sent something, and answers if it is reached."""
    for peer in world["peers"].values():
        reached = peer["right"] == peer["endpoint"] and peer["wants_port"] in (0, world["port"])
        peer["sent"] += 148
        if reached and not peer["forgot"]:
            peer["received"] += 92
            peer["epoch"] = int(time.time() * 10)  # so that a test need not wait for the next second


def change(world: dict[str, Any], words: list[str]) -> None:
    if words[0] == "listen-port":
        world["port"] = int(words[1]) or world["next_port"]
        return
    key, what, *rest = words[1:]
    if what == "remove":
        world["out"][key] = world["peers"].pop(key)
        return
    world["peers"][key]["keepalive" if what == "persistent-keepalive" else what] = (
        int(rest[0]) if what == "persistent-keepalive" else rest[0]
    )


def main() -> None:
    with (HERE / "world.json").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        world = json.load(file)
        if WORDS[0] != "show":
            world["ran"].append(WORDS)
        if world["fails"]:
            sys.exit(world["fails"])
        match WORDS:
            case ["show", _, word]:
                if word == "transfer":
                    flow(world)
                sys.stdout.write(shown(world, word))
            case ["showconf", _]:
                sys.stdout.write("PrivateKey = secret\n" + json.dumps(world["peers"]))
            case ["set", _, *words]:
                change(world, words)
            case ["syncconf", _, path]:
                kept = json.loads(Path(path).read_text().partition("\n")[2])
                for key in kept.keys() - world["peers"].keys():
                    world["peers"][key] = kept[key] | {"forgot": False}
        file.seek(0)
        file.truncate()
        json.dump(world, file)


main()
