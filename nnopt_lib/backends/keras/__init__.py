"""The Keras adapter. This loads Keras and TensorFlow quietly before any module in here can import them."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator

from nnopt_lib.checks import refuse


@contextlib.contextmanager
def _without_banner() -> Iterator[None]:
    """Keep file descriptor 2 silent inside: TensorFlow writes there while it loads, whatever is set.

    Notebooks would store its process numbers and times. Errors are exceptions and still come through.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with _without_banner():
    # PyTorch's CUDA builds load Triton on first need; after TensorFlow its library ends the process with a
    # segmentation fault (seen with torch 2.13, Triton 3.7 and TensorFlow 2.21), before TensorFlow it is fine.
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    import keras
    import tensorflow as tf

__all__ = ["keras", "tf"]

if keras.backend.backend() != "tensorflow":
    refuse(
        "Keras must run on TensorFlow here",
        keras.backend.backend(),
        "Set KERAS_BACKEND=tensorflow and restart.",
    )
