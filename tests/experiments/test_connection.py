"""Only a Dask scheduler is connected to; all else is one sentence within seconds, and the process can end."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from nnopt_lib.experiments.connection import connected
from tests.dask_processes import dask_processes

PROGRAM = textwrap.dedent(
    """
    import json, sys, time
    import distributed
    from nnopt_lib.checks import NnoptError
    from nnopt_lib.experiments.connection import connected

    seconds = []
    for address in sys.argv[1:]:
        begin = time.monotonic()
        try:
            connected(address)
        except NnoptError as refusal:
            print(refusal, file=sys.stderr)
        seconds.append(time.monotonic() - begin)
    print(json.dumps([seconds, time.time()]))
    """
)
SENTENCE = (
    "a cluster must be the address of a Dask scheduler that answers; received {!r} ({}). "
    "Start one with `dask scheduler`, or leave out cluster and NNOPT_CLUSTER to run here."
)


def refused(*addresses: str) -> tuple[str, list[float], float]:
    """What a process that connects to each wrote on stderr, the seconds of each, and those of its end."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *addresses], capture_output=True, text=True)
    seconds, ended = json.loads(done.stdout)
    return done.stderr, seconds, time.time() - ended


@contextlib.contextmanager
def listening(greeting: bytes = b"", answer: bytes = b""):
    """The address of a server that greets whoever connects, and answers what it is sent."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                talk = server.accept()[0]
                talks.append(talk)
                talk.sendall(greeting)
                if answer:
                    talk.recv(1000)
                    talk.sendall(answer)
                    talk.close()

    talks: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for talk in talks:
        talk.close()


def length(number: int) -> bytes:
    return number.to_bytes(8, "little")


OTHER = "what answers there is no Dask scheduler"
SILENT = "no answer within 5 seconds"
SERVERS = [
    (b"", b"", SILENT),
    (b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", OTHER),
    (b"SSH-2.0-OpenSSH_9.2\r\n", b"", OTHER),
    (bytes(range(255, 0, -1)) * 9, b"", OTHER),
    (bytes(100), b"", OTHER),
    (length(8) + length(0), b"", OTHER),  # no frames at all, of which Dask writes a traceback to its log
    (length(2**30), b"", SILENT),  # a gibibyte is announced, and never comes
]


def test_servers_of_another_kind_are_refused_within_seconds_and_let_the_process_end():
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(listening(*server[:2])) for server in SERVERS]
        stderr, seconds, ending = refused(*addresses)
    told = [SENTENCE.format(*pair) for pair in zip(addresses, [each[2] for each in SERVERS], strict=True)]
    assert stderr.splitlines() == told
    assert max(seconds) < 6 and ending < 3


def test_no_server_and_nonsense_are_refused_within_seconds():
    with socket.socket() as taken:  # bound and not listening: nobody else gets this port
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        cases = [
            ("abc", "missing port number in address 'abc'"),
            ("tcp://", "missing port number in address ''"),
            ("inproc://x", "don't know how to extract host and port for address 'inproc://x'"),
            (address, "nothing listens there"),
        ]
        stderr, seconds, ending = refused(*(each[0] for each in cases))
    assert stderr.splitlines() == [SENTENCE.format(*each) for each in cases]
    assert max(seconds) < 6 and ending < 3


def test_a_scheduler_is_connected_to_and_its_workers_and_nannies_are_refused(tmp_path):
    with dask_processes(tmp_path) as processes:
        processes.add_worker(nanny=True)
        client = connected(processes.address)
        try:
            client.wait_for_workers(1, timeout=60)
            ((worker, details),) = client.scheduler_info(n_workers=-1)["workers"].items()
        finally:
            client.close()
        stderr, seconds, ending = refused(worker, details["nanny"])
    assert stderr.splitlines() == [
        SENTENCE.format(worker, "what answers there is a Worker"),
        SENTENCE.format(details["nanny"], "what answers there is a Nanny"),
    ]
    assert max(seconds) < 6 and ending < 3


def test_logs_are_as_before_after_a_refusal():
    logger = logging.getLogger("distributed.client")
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as address, pytest.raises(ValueError):
        connected(address)
    assert not logger.disabled
