"""Examples in any of their forms, as a PyTorch module reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.examples import arrays_of, refuse_to_run


def like_model(value: Any, like: torch.Tensor) -> torch.Tensor:
    """A copy of an array or tensor where the model is; numbers with a point in the type of its weights."""
    tensor = torch.as_tensor(value)
    # A copy, since a model may work in place.
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None, copy=True)


def run(model: nn.Module, x: Any, like: torch.Tensor) -> Any:
    """What `model` gives for inputs in any of their forms; refused where it does not run on them."""
    try:
        if isinstance(x, Mapping):
            return model(**{name: like_model(array, like) for name, array in x.items()})
        return model(*(like_model(array, like) for array in arrays_of(x)))
    except NnoptError:
        raise
    except Exception as error:
        refuse_to_run(type(model).__name__, error)
