"""A PyTorch module as an ONNX model."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.fit import inference
from nnopt_lib.backends.torch.inputs import like_model, run
from nnopt_lib.checks import refuse


def outputs_of(model: nn.Module, x: Any) -> list[np.ndarray]:
    """What the model gives for `x` in evaluation mode: its one output, or each of several in order."""
    with inference(model):
        given = run(model, x, _example_tensor(model))
    several = list(given.values()) if isinstance(given, Mapping) else given
    tensors = list(several) if isinstance(several, (list, tuple)) else [several]
    return [tensor.detach().cpu().numpy() for tensor in tensors]


def onnx_of(model: nn.Module, x: Any, *, any_batch: bool) -> Any:
    """The `onnx.ModelProto` of a model that reads `x`, of as many examples or, with `any_batch`, of any."""
    like = _example_tensor(model)
    batch = {0: torch.export.Dim("batch")} if any_batch else None
    given: dict[str, Any] = {}
    if isinstance(x, Mapping):
        given["kwargs"] = {name: like_model(array, like) for name, array in x.items()}
        shapes: Any = dict.fromkeys(x, batch)
    else:
        given["args"] = tuple(like_model(array, like) for array in (x if isinstance(x, tuple) else (x,)))
        shapes = tuple(batch for _ in given["args"])
    try:
        with inference(model), _silent():
            program: Any = torch.onnx.export(
                model, **given, dynamic_shapes=shapes, dynamo=True, verbose=False
            )
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        rule = f"{type(model).__name__} must be a model that torch.onnx.export can read"
        remedy = "Pass batch= where it runs on one number of examples only." if any_batch else ""
        refuse(rule if not any_batch else f"{rule}, for any number of examples", reason, remedy)
    return program.model_proto


def _example_tensor(model: nn.Module) -> torch.Tensor:
    """A tensor of the device and type in which the model computes."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter prints, logs and warns about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
