"""A program of its own, started inside the sandbox: take on limits, become an ordinary user, run a command.

``python -I -S exec_limited.py UID LIMITS COMMAND...``; LIMITS is JSON, names of `resource` without
``RLIMIT_``. It imports the standard library only, since nothing else is on its path.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys


def main(arguments: list[str]) -> None:
    """Set every limit that the system knows, leave the rights of root, and become the command."""
    uid, limits, *command = arguments
    for name, value in json.loads(limits).items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (least, least))
    with contextlib.suppress(OSError):  # of all processes, this one goes first when memory runs out
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    os.umask(0o077)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
