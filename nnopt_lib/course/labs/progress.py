"""A bar on the terminal for what takes long with a class; NNOPT_PROGRESS=0 silences it."""

from __future__ import annotations

import os
from typing import Any


def progress(total: int, what: str) -> Any:
    """A bar of `total` steps, for a with statement; each step is one call of its `update`."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="", disable=os.environ.get("NNOPT_PROGRESS") == "0")
