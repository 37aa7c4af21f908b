"""Stand-in for systemctl, systemd-run and the like: notes its arguments, and does the little that the tests look at.

It is copied once for each name, and knows by its name which one it is. Standard library only.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(sys.argv[0]).resolve().parent
NAME = Path(sys.argv[0]).name


def state_file(unit: str) -> Path:
    return HERE / f"unit-{unit.removesuffix('.service')}"


def reaper(argv: list[str], env: dict[str, str], file: Path) -> None:
    """Start the unit's process, and write down how it ends: what systemd does."""
    if os.fork():
        deadline = time.monotonic() + 10
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(HERE / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, instead in ((0, null), (1, log), (2, log)):
        os.dup2(instead, number)
    process = subprocess.Popen(argv, env=env, cwd="/")
    write(file, {"pid": process.pid, "code": None})
    code = process.wait()
    write(file, {"pid": process.pid, "code": code})
    os._exit(0)


def write(file: Path, content: dict[str, object]) -> None:
    part = file.with_name(f"part-{file.name}")
    part.write_text(json.dumps(content))
    part.rename(file)


def say(text: str) -> None:
    sys.stdout.write(text)


def run_unit(arguments: list[str]) -> None:
    cut = arguments.index("--")
    words, command = arguments[:cut], arguments[cut + 1 :]
    unit = next(word.removeprefix("--unit=") for word in words if word.startswith("--unit="))
    properties = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    if not properties:  # the timer of a shutdown
        return
    folder = HERE / f"credentials-{unit}-{time.monotonic_ns()}"
    folder.mkdir(mode=0o700)
    for one in properties:
        if one.startswith("LoadCredential="):
            name, _, path = one.removeprefix("LoadCredential=").partition(":")
            (folder / name).write_bytes(Path(path).read_bytes())
            os.chown(folder / name, 65534, 65534)
    os.chown(folder, 65534, 65534)
    state = HERE / f"state-{unit}"
    state.mkdir(mode=0o700, exist_ok=True)
    os.chown(state, 65534, 65534)
    runtime = (
        next(one for one in properties if one.startswith("TemporaryFileSystem=")).partition("=")[2].partition(":")[0]
    )
    service = next(one for one in properties if "/units/" in one).partition("/units/")[2].partition(":")[0]
    command = [word.replace(f"--output={runtime}/output", f"--output={runtime}/units/{service}") for word in command]
    # The tests' folders and interpreter may be root's: it may read them, and nothing more.
    may = (
        "--inh-caps",
        "+dac_read_search",
        "--ambient-caps",
        "+dac_read_search",
        "--bounding-set",
        "-all,+dac_read_search",
    )
    other = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *may, "--")
    env = {"PATH": os.environ["PATH"], "CREDENTIALS_DIRECTORY": str(folder), "STATE_DIRECTORY": str(state)}
    state_file(unit).unlink(missing_ok=True)
    reaper([*other, *command], env, state_file(unit))


def control(arguments: list[str]) -> None:
    words = [word for word in arguments if not word.startswith("--")]
    verb, unit = words[0], words[-1]
    file = state_file(unit)
    held = json.loads(file.read_text()) if file.exists() else {"pid": 0, "code": 0}
    alive = file.exists() and held["code"] is None
    if verb == "kill" and alive:
        number = next(word.partition("SIG")[2] for word in arguments if word.startswith("--signal="))
        os.kill(held["pid"], getattr(signal, f"SIG{number}"))
    elif verb == "stop" and alive:
        os.kill(held["pid"], signal.SIGTERM)
        while json.loads(file.read_text())["code"] is None:
            time.sleep(0.01)
    elif verb == "reset-failed":
        file.unlink(missing_ok=True)
    elif verb == "show":
        code = held["code"]
        result = "success" if not code else "signal" if code < 0 else "exit-code"
        active = "active" if alive else "failed" if code else "inactive"
        pid = held["pid"] if alive else 0
        say(f"ActiveState={active}\nMainPID={pid}\nResult={result}\nExecMainStatus={abs(code or 0)}\n")


def wireguard(arguments: list[str]) -> None:
    """Do as wg does with one interface: what it shows are files, a peer that was removed is gone until syncconf."""
    peers = HERE / "wg-peers"
    match arguments:
        case ["show", _, word]:
            file = HERE / f"wg-{word}"
            say(file.read_text() if file.exists() else "")
        case ["showconf", _]:
            say((HERE / "wg-conf").read_text() if (HERE / "wg-conf").exists() else "")
        case ["set", _, "peer", key, "remove"]:
            peers.write_text("".join(line for line in peers.read_text().splitlines(keepends=True) if key not in line))
        case ["syncconf", _, path]:
            if (HERE / "wg-fails").exists():
                (HERE / "wg-fails").unlink()
                sys.exit("Unable to modify interface: Device or resource busy")
            config = Path(path).read_text()
            (HERE / "wg-synced").write_text(config)
            words = (line.partition("= ")[2] for line in config.splitlines() if line.startswith("PublicKey"))
            peers.write_text("".join(f"{key}\n" for key in words))
        case ["set", *_]:
            return


with (HERE / "ran").open("a") as ran:
    ran.write(json.dumps([NAME, *sys.argv[1:]]) + "\n")
if NAME == "systemd-run":
    run_unit(sys.argv[1:])
elif NAME == "systemctl":
    control(sys.argv[1:])
elif NAME == "wg":
    wireguard(sys.argv[1:])
elif NAME == "nmcli" and "show" in sys.argv:
    say((HERE / "nmcli-state").read_text() if (HERE / "nmcli-state").exists() else "10 (unmanaged)\n")
elif NAME == "systemd-inhibit":
    say((HERE / "inhibitors").read_text() if (HERE / "inhibitors").exists() else "")
elif NAME == "nft" and "--check" in sys.argv and b"bad" in Path(sys.argv[-1]).read_bytes():
    sys.exit("syntax error")
