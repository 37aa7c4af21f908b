"""The program of a unit: it finds the core's packages in the daemon's folder and the rest where its Python has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sparkd import unit

CORE = """
import sys
before = set(sys.modules)
import sparkd.child
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
"""


def test_it_knows_every_package_that_the_core_needs() -> None:
    done = subprocess.run([sys.executable, "-c", CORE], capture_output=True, text=True, check=True)
    compiled = {name for name in done.stdout.split() if name.startswith(("_", "pyximport", "cython"))}

    assert set(done.stdout.split()) - compiled - unit.CORE_PACKAGES == set()


def test_a_vendor_s_packages_win_but_for_the_core_s_own(tmp_path: Path) -> None:
    for folder in ("daemon", "vendor"):
        (tmp_path / folder).mkdir()
        for name in ("anyio", "numpy"):
            (tmp_path / folder / f"{name}.py").write_text(f"FROM = {folder!r}\n")
    script = (
        "import sys; from sparkd import unit\n"
        "for name in ('anyio', 'numpy'): sys.modules.pop(name, None)\n"
        f"sys.path.insert(0, {str(tmp_path / 'vendor')!r})\n"
        f"daemon = {str(tmp_path / 'daemon')!r}\n"
        "sys.meta_path.insert(0, unit.CoreFinder([daemon])); sys.path.append(daemon)\n"
        "import anyio, numpy; print(anyio.FROM, numpy.FROM)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["daemon", "vendor"]


def test_another_version_of_sparkd_is_said_and_not_run(tmp_path: Path) -> None:
    script = (
        "import socket, subprocess, sys\n"
        "with socket.socket(socket.AF_UNIX) as listening:\n"
        f"    listening.bind({str(tmp_path / 'out')!r}); listening.listen(2)\n"
        f"    folder, out = {str(Path(unit.__file__).parent.parent)!r}, {str(tmp_path / 'out')!r}\n"
        "    where = ['--packages', folder, '--output', out]\n"
        f"    p = subprocess.Popen([sys.executable, '-I', {unit.__file__!r}, *where, '--version', 'other'])\n"
        "    output, result = listening.accept()[0], listening.accept()[0]\n"
        "    print(p.wait(), output.recv(4096).decode(), result.recv(10))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("78 ")
    assert "the daemon is other: install the same there" in done.stdout
    assert done.stdout.strip().endswith("b''")
