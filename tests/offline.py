"""What the repository promises without a network: the book, a chapter computed anew, the chapters on downloaded data.

``make offline`` runs it. The checkout is copied, so nothing that was made or stored here can help, and its home is
empty. Where the system can cut the network it is cut, and that is tried; where it cannot, this is said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = (".git", ".venv", "build", "_build", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")
STEPS = (
    ("book",),
    ("run", "02", "--profile", "quick", "-p", "recompute", "true"),
    ("check", "05", "09", "10", "14", "--jobs", "2"),  # these rest on MNIST
)
TRY_TO_CONNECT = "import socket; socket.create_connection(('1.1.1.1', 443), timeout=5)"
LOOPBACK = 'ip link set lo up && exec "$@"'  # kernels talk through it; bubblewrap sets it up by itself


def cuts() -> list[list[str]]:
    """Beginnings of a command under which there is no network, whether or not they work here."""
    return [
        ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent"],
        ["unshare", "--net", "sh", "-c", LOOPBACK, "sh"],
        ["unshare", "--map-root-user", "--net", "sh", "-c", LOOPBACK, "sh"],
    ]


def working_cut() -> list[str]:
    """The first that works here, empty where none does."""
    for cut in cuts():
        if shutil.which(cut[0]) and subprocess.run([*cut, "true"], capture_output=True).returncode == 0:
            return cut
    return []


def main() -> int:
    """Run the steps; returns the status of the first that fails."""
    cut = working_cut()
    if cut:
        reached = subprocess.run([*cut, sys.executable, "-c", TRY_TO_CONNECT], capture_output=True)
        if reached.returncode == 0:
            print(f"offline: {cut[0]} did not cut the network", flush=True)
            return 1
    print(
        f"offline: the network is {'cut by ' + cut[0] if cut else 'NOT cut: nothing here can do it'}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        copy, home = Path(folder) / "copy", Path(folder) / "home"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        home.mkdir()
        environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(copy)}
        for name in [name for name in environment if name.startswith(("NNOPT_", "XDG_", "JUPYTER_"))]:
            del environment[name]
        for step in STEPS:
            started = time.perf_counter()
            command = [*cut, sys.executable, "-m", "nnopt_lib.cli", *step]
            status = subprocess.run(command, cwd=copy, env=environment, stdin=subprocess.DEVNULL).returncode
            seconds = time.perf_counter() - started
            outcome = f"failed with status {status}" if status else "passed"
            print(f"offline: nnopt {' '.join(step)} {outcome} in {seconds:.0f} s", flush=True)
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
