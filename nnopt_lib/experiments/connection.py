"""A connection to a Dask scheduler; whatever else answers at an address is refused within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

from nnopt_lib.checks import refuse

ANSWER_SECONDS = 5  # within which a scheduler must have said that it is one
CONNECT_SECONDS = 3  # of them, for the connection


def connected(address: str) -> Any:
    """A client of the Dask scheduler at `address`, or a refusal within seconds, without a word on stderr.

    Example: ``client = connected("tcp://127.0.0.1:8786")``.
    """
    from distributed import Client

    reason = _reason_against(address)
    if reason is None:
        try:
            return Client(address, timeout=ANSWER_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
        except OSError:
            reason = "it stopped answering"
    remedy = "Start one with `dask scheduler`, or leave out cluster and NNOPT_CLUSTER to run here."
    rule = "a cluster must be the address of a Dask scheduler that answers"
    refuse(rule, f"{address!r} ({reason})", remedy)


def _reason_against(address: str) -> str | None:
    """What is wrong with the address of a scheduler, or None.

    A thread that nobody waits for asks: looking up a name, or whatever answers there, may take for ever.
    """
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: answers.put(_asked(address)), daemon=True)
    with _silent("distributed", "tornado", "asyncio"):
        thread.start()
        try:
            return answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            return f"no answer within {ANSWER_SECONDS} seconds"


def _asked(address: str) -> str | None:
    from distributed.comm.addressing import get_address_host_port
    from distributed.comm.core import CommClosedError

    try:
        socket.getaddrinfo(*get_address_host_port(address))
    except Exception as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    try:
        # Connecting is tried again for part of the time: a scheduler may just be starting.
        identity = asyncio.run(asyncio.wait_for(_identity(address, CONNECT_SECONDS), ANSWER_SECONDS - 0.5))
        kind = identity["type"]
    except Exception as error:
        if isinstance(error, TimeoutError):
            return f"no answer within {ANSWER_SECONDS} seconds"
        if isinstance(error, OSError) and not isinstance(error, CommClosedError):
            return "nothing listens there"
        # Bytes that are not Dask's are read as lengths and types: a MemoryError, an IndexError, and so on.
        return "what answers there is no Dask scheduler"
    return None if kind == "Scheduler" else f"what answers there is a {kind}"


async def _identity(address: str, seconds: float) -> dict[str, Any]:
    from distributed.core import rpc
    from distributed.security import Security

    options = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    async with rpc(address, timeout=seconds, connection_args=options) as remote:  # type: ignore[no-untyped-call]
        identity: dict[str, Any] = await remote.identity()
        return identity


@contextlib.contextmanager
def _silent(*packages: str) -> Iterator[None]:
    """No log of these packages inside: what fails there is told in one sentence."""
    known = [logging.getLogger(name) for name in [*packages, *logging.root.manager.loggerDict]]
    loud = [one for one in known if one.name.partition(".")[0] in packages and not one.disabled]
    for logger in loud:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loud:
            logger.disabled = False
