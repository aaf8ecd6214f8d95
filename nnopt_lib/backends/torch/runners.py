"""PyTorch modules made ready to be timed: on so many threads, compiled, on a card's 2:4 kernels."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch import fit
from nnopt_lib.checks import refuse

AMPERE = (8, 0)  # the first compute capability whose tensor cores multiply 2:4


def threads() -> int:
    """How many threads torch computes on."""
    return torch.get_num_threads()


def on_threads(run: Callable[[], Any], count: int) -> Callable[[], Any]:
    """`run`, with torch on `count` threads while it runs and on as many as before afterwards."""

    def run_on_threads() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(count)  # both calls together take a tenth of a microsecond
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return run_on_threads


def layer_of(kernel: np.ndarray) -> nn.Module:
    """A linear layer (out, in), or a convolution (out, in, height, width) that keeps odd sizes; no bias."""
    weight = torch.from_numpy(np.array(kernel, np.float32))
    outputs, inputs, *size = weight.shape
    with torch.device("meta"):  # values come below; drawing them would take longer than all else
        layer: nn.Linear | nn.Conv2d = nn.Linear(inputs, outputs, bias=False)
        if size:
            layer = nn.Conv2d(inputs, outputs, (size[0], size[1]), padding="same", bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return nn.Sequential(layer).eval()


def compiled(model: nn.Module, x: np.ndarray, count: int) -> Callable[[], Any]:
    """A function that runs what `torch.compile` makes of a copy of the model, for this shape of input."""
    compiler = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))
    if shutil.which(compiler) is None:
        rule = "torch.compile needs a C++ compiler"
        refuse(rule, f"{compiler}, which is not installed", "Install it, or leave 'compiled' out.")
    quick: Any = torch.compile(copy.deepcopy(model), dynamic=False)
    run = on_threads(fit.runner(quick, x, None), count)
    # Of one class torch compiles eight shapes by default, and runs others as they are, without a word.
    with torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000):
        run()
    return run


def on_card(model: nn.Module) -> nn.Module:
    """A copy in half precision on a card, with dense layers that are pruned 2:4 stored for its kernels."""
    check_card()
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and _fits_card(layer.weight)]
    if not layers:
        rule = "'cuda_2:4' needs a dense layer with at most 2 of every 4 inputs, its sizes multiples of 64"
        refuse(rule, "none", "Prune it with granularity='2:4' first.")
    sparse = {name for name, layer in model.named_modules() if layer in layers}
    half = copy.deepcopy(model).to("cuda", torch.float16)
    for name, layer in half.named_modules():
        if name in sparse:
            compressed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
            layer.weight = nn.Parameter(compressed, requires_grad=False)
    return half


def check_card() -> None:
    """Refuse a machine without a card that multiplies 2:4."""
    received = "none"
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if capability >= AMPERE:
            return
        received = "one of capability {}.{}".format(*capability)
    rule = "2:4 kernels need a CUDA card of compute capability 8.0 or later"
    refuse(rule, received, "Leave 'cuda_2:4' out.")


def _fits_card(weight: torch.Tensor) -> bool:
    if weight.shape[0] % 64 or weight.shape[1] % 64:
        return False
    return bool(((weight.detach().reshape(-1, 4) != 0).sum(1) <= 2).all())
