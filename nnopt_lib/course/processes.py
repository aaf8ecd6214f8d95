"""End a command with all that it started: one handler for Ctrl-C, SIGTERM and a terminal that is closed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = {
    number: word
    for name, word in {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated"}.items()
    if (number := getattr(signal, name, None)) is not None  # Windows has no SIGHUP
}
CHILDREN_SECONDS = 5  # for a sandbox to be taken down, a temporary folder to be removed
UNWINDING_SECONDS = 5  # for this process to let go of what it holds


@dataclasses.dataclass
class Ending:
    """The status that a signal gave a command, as shells count it: 128 and its number; 0 without one."""

    status: int = 0


@contextlib.contextmanager
def ended_whole() -> Iterator[Ending]:
    """Let a signal end the block, and with it every process that was started inside, after one line.

    Processes are asked by SIGTERM, and killed where they do not listen. What is printed afterwards, by
    threads and libraries that are cut off, is not heard. Threads other than the main one get no signals:
    there the block is simply run.
    """
    ending = Ending()

    def end(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)  # a second Ctrl-C would leave half of it behind
        ending.status = 128 + number
        print(f"nnopt: {SIGNALS[number]}; finished rows are kept", file=sys.stderr, flush=True)
        be_silent()
        _end_children()
        # For what cannot be unwound, as a thread that waits for a network.
        watchdog = threading.Timer(UNWINDING_SECONDS, os._exit, (ending.status,))
        watchdog.daemon = True
        watchdog.start()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    # What the caller ignores, as nohup does, stays ignored.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    try:
        for number in handled:
            signal.signal(number, end)
        try:
            yield ending
        except KeyboardInterrupt:
            if not ending.status:
                raise
    finally:
        for number in handled:
            signal.signal(number, before[number])


def be_silent() -> None:
    """Let nothing that this process still prints be heard, as what libraries say when they are cut off."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _end_children() -> None:
    """Ask all processes below this one to end; kill those that have not after some seconds."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=CHILDREN_SECONDS)
    with contextlib.suppress(psutil.Error):
        alive += psutil.Process().children(recursive=True)  # what was started while they were asked
    for child in alive:
        with contextlib.suppress(psutil.Error):
            child.kill()
