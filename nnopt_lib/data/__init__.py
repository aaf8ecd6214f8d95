"""The course's data sets: checked arrays and texts, each with a fingerprint known before it is read.

`load_data` gives examples with labels; the functions of `nnopt_lib.data.other` give text, sentences, a table
of networks and trained weights. `nnopt_lib.data.catalog` says where each comes from, under which license.
"""

from __future__ import annotations

from nnopt_lib.data.arrays import Data
from nnopt_lib.data.catalog import whereabouts
from nnopt_lib.data.classification import load_data
from nnopt_lib.data.other import (
    banking77,
    minilm,
    nas_bench_macro,
    sts_benchmark,
    tinyshakespeare,
    woodfisher_mlp,
)

__all__ = [
    "Data",
    "banking77",
    "load_data",
    "minilm",
    "nas_bench_macro",
    "sts_benchmark",
    "tinyshakespeare",
    "whereabouts",
    "woodfisher_mlp",
]
