"""Where independent runs are computed: this machine, or a Dask cluster that is given by its address."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from nnopt_lib.checks import refuse

ANSWER_SECONDS = 5


@contextlib.contextmanager
def on_cluster(address: str | None = None) -> Iterator[bool]:
    """Let joblib's calls inside go to the Dask scheduler at `address`, or at NNOPT_CLUSTER; None for neither.

    Yields whether there is a cluster. A scheduler that does not answer within 5 seconds is refused.
    """
    address = address or os.environ.get("NNOPT_CLUSTER")
    if not address:
        yield False
        return
    import joblib
    from distributed import Client

    try:
        client = Client(address, timeout=ANSWER_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        remedy = "Start one with `dask scheduler`, or leave out cluster and NNOPT_CLUSTER to run here."
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        refuse(
            "a cluster must be the address of a Dask scheduler that answers",
            f"{address!r} ({reason})",
            remedy,
        )
    try:
        with joblib.parallel_config(backend="dask", n_jobs=-1, wait_for_workers_timeout=60):
            yield True
    finally:
        client.close()
