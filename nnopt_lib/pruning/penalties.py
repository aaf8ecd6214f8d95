"""Sparsifying regularization: penalties, their proximal steps, and gates, for any loop and for `fit`.

All act on the kernels that `prune` would rank (dense, convolution, embedding; shared ones once) and leave
biases alone; slimming acts on the scales of batch normalizations instead. The functions take a torch module
or a Keras model and give numbers of its own framework. Chapters 08 and 14 teach them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnopt_lib.checks import check_choice, check_number, refuse
from nnopt_lib.frameworks import penalty_backend_of

KINDS = ("l1", "l2", "elastic_net", "group_lasso", "proximal_l1", "proximal_group_lasso", "slimming", "l0")

# The hard concrete distribution's temperature and stretch (Louizos et al. 2018, section 4).
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


@dataclass(frozen=True)
class Penalty:
    """What `fit` adds to the cross-entropy or does after each step. Checked on creation.

    Parameters:
        kind: ``"l1"``, ``"l2"``, ``"elastic_net"`` and ``"group_lasso"`` are added to the loss, and the
            optimizer follows their (sub)gradient. ``"proximal_l1"`` and ``"proximal_group_lasso"`` are
            thresholds after every step, which make exact zeros. ``"slimming"`` adds the L1 of batch
            normalization's scales, to prune nodes by them. ``"l0"`` trains hard-concrete gates beside the
            weights.
        strength: factor of the penalty, at least 0; l0's is per gate that is expected to be open.
        mix: elastic net's share of L1, from 0 (L2 alone) to 1 (L1 alone).

    Example:
        >>> Penalty("proximal_l1", 1e-3)
        Penalty(kind='proximal_l1', strength=0.001, mix=0.5)
    """

    kind: str
    strength: float
    mix: float = 0.5

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_number("strength", self.strength, at_least=0)
        if check_number("mix", self.mix, at_least=0) > 1:
            refuse("mix must be from 0 to 1", self.mix)


def check_penalized(kind: str, names: list[str]) -> list[str]:
    """The names of what a penalty acts on, kernels or scales; a model without any is refused."""
    if not names and kind == "slimming":
        refuse("penalty 'slimming' needs a trainable scale of a batch normalization", "none")
    if not names:
        kinds = "a dense, convolution or embedding layer"
        refuse(f"a model to penalize needs a trainable kernel of {kinds}", "none")
    return names


def l1(model: Any) -> Any:
    """The sum of all |w| (Tibshirani 1996): its gradient is sign(w), as strong at small weights as at large.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.data[:] = torch.tensor([[3.0, -4.0]])
        >>> l1(layer).item(), l2(layer).item(), round(group_lasso(layer).item(), 3)
        (7.0, 25.0, 7.071)
    """
    return penalty_backend_of(model).total("l1", model)


def l2(model: Any) -> Any:
    """The sum of all w^2: its gradient 2w fades with the weight, so that none becomes 0."""
    return penalty_backend_of(model).total("l2", model)


def group_lasso(model: Any) -> Any:
    """The sum over nodes of sqrt(n) ||w||_2, n incoming weights each (Yuan & Lin 2006; Wen et al. 2016)."""
    return penalty_backend_of(model).total("group_lasso", model)


def slimming(model: Any) -> Any:
    """The sum of |scale| of all batch normalizations (Liu et al. 2017); chapter 14 prunes by them.

    Example:
        >>> import torch
        >>> slimming(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))).item()
        3.0
    """
    return penalty_backend_of(model).total("slimming", model)


def soft_threshold(model: Any, amount: float) -> None:
    """Move every weight by `amount` toward 0, in place, and stop there: L1's proximal step.

    Call it after the optimizer's step with ``learning_rate / (1 - momentum) * strength``: under momentum the
    loss's gradient moves a weight that much farther, and the threshold must keep up with it (`fit` does so).
    For an adaptive optimizer every weight would need an amount of its own; there ``learning_rate * strength``
    is a heuristic. Source: Parikh & Boyd 2014, section 6.5.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.data[:] = torch.tensor([[3.0, -0.5]])
        >>> soft_threshold(layer, 1.0)
        >>> layer.weight.tolist()
        [[2.0, 0.0]]
    """
    check_number("amount", amount, at_least=0)
    penalty_backend_of(model).shrink("proximal_l1", model, amount)


def group_soft_threshold(model: Any, amount: float) -> None:
    """Shorten every node's incoming weights by ``amount * sqrt(n)``, in place: group lasso's proximal step.

    A node whose weights are shorter than that loses all of them at once.
    """
    check_number("amount", amount, at_least=0)
    penalty_backend_of(model).shrink("proximal_group_lasso", model, amount)


def gates(model: Any, strength: float, *, learning_rate: float = 0.01, seed: int = 0) -> Any:
    """Hard-concrete gates on every kernel, trained toward few open ones (Louizos et al. 2018).

    Parameters:
        strength: what an open gate adds to the loss, as in the paper's equation 12.
        learning_rate: of the gates, whose optimizer is an Adam of their own.
        seed: of the noise.

    Each weight is w = theta z, where z lies in [0, 1] and is exactly 0 or 1 with some probability. Returns an
    object for a loop of your own::

        held.draw()                  # before the forward pass: the weights become theta z, z drawn anew
        loss.backward()
        held.pass_gradients()        # theta and the gates get their gradients, theta is put back
        optimizer.step()
        held.close()                 # the gates step; the weights become theta z without noise

    Between steps the model is an ordinary one with exact zeros, ready to be evaluated or saved; nothing is
    left on it. In Keras, `pass_gradients` takes the gradients and returns those of theta.
    """
    check_number("strength", strength, at_least=0)
    check_number("learning_rate", learning_rate, above=0)
    return penalty_backend_of(model).gates(model, strength, learning_rate, seed)
