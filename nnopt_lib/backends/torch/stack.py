"""Many seeds at once: one program trains a whole stack of networks of equal shape.

A small network's training step costs mostly the calls, not the arithmetic. Stacking the parameters of S
seeds along a first axis turns S small matrix products into one batched product, so the calls are paid once.
Each seed keeps its own first weights, its own order of batches and its own early stopping, so that its
result equals the one-by-one loop's up to float32 rounding. `torch.func.vmap` gives the same program;
writing the few operations out is faster, since folding seeds into the batch or the channels needs no copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from nnopt_lib.backends.torch.build import plain_function, resolve_device
from nnopt_lib.backends.torch.fit import make_optimizer, set_rate
from nnopt_lib.backends.torch.masks import clear, keep_bits
from nnopt_lib.backends.torch.penalties import Regularizer
from nnopt_lib.checks import refuse
from nnopt_lib.measure.statistics import accuracy_and_loss
from nnopt_lib.pruning.penalties import Penalty, check_penalized
from nnopt_lib.structure.operations import spatial
from nnopt_lib.structure.spec import INPUT, NetSpec, Node
from nnopt_lib.training.recipe import History, Training

if TYPE_CHECKING:
    from nnopt_lib.data import Data

_STATISTICS = ("mean", "variance")


class Stack:
    """S trained networks of one description. `histories[i]` and `weights(i)` belong to ``seeds[i]``."""

    def __init__(
        self,
        spec: NetSpec,
        seeds: Sequence[int],
        weights: Sequence[Mapping[str, np.ndarray]],
        masks: Sequence[Mapping[str, np.ndarray] | None],
        device: str,
    ) -> None:
        self.spec, self.seeds, self.device = spec, list(seeds), resolve_device(device)
        self.histories: list[History] = []  # of each seed; `fit_many` gives them after training
        # Of the kept rows: name -> (seeds, *shape), canonical.
        self.values = {
            name: torch.from_numpy(np.stack([w[name] for w in weights])).to(self.device)
            for name in weights[0]
        }
        self._keep = self._stacked(masks)  # bits to keep, of the same shapes, for those that a mask names
        for name, keep in self._keep.items():
            clear(self.values[name], keep)
        self._last = self.values  # of the last step; others only where patience kept earlier ones

    def _stacked(self, masks: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, torch.Tensor]:
        names = {name for mask in masks if mask for name in mask}
        stacked = {}
        for name in sorted(names):
            whole = np.ones(self.values[name].shape[1:], bool)
            arrays = [mask[name] if mask and name in mask else whole for mask in masks]
            stacked[name] = keep_bits(np.stack(arrays), self.values[name])
        return stacked

    def weights(self, index: int, *, last: bool = False) -> dict[str, np.ndarray]:
        """Copies of one network's weights, by canonical name, as `set_weights` takes them.

        Those of the kept row (with patience the best on validation data); with `last` those of the last step.
        """
        values = self._last if last else self.values
        return {name: value[index].detach().cpu().numpy().copy() for name, value in values.items()}

    def predict(self, x: np.ndarray | Sequence[np.ndarray], batch_size: int = 1024) -> np.ndarray:
        """Logits of every network, (seeds, examples, outputs), for the same `x` or a list of one each."""
        seeds = len(self.seeds)
        with torch.no_grad():
            if isinstance(x, np.ndarray):
                values = torch.as_tensor(x).to(self.device)
                values = values.expand(seeds, *values.shape)  # a view: nothing is copied
            else:
                _check_one_each("inputs", x, seeds)
                values = torch.from_numpy(np.stack(x)).to(self.device)
            outputs = [self.forward(batch, training=False) for batch in values.split(batch_size, 1)]
            return torch.cat(outputs, 1).float().cpu().numpy()

    def evaluate(
        self, x: np.ndarray | Sequence[np.ndarray], y: np.ndarray | Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        """One row per network: `seed`, `accuracy` and mean cross-entropy `loss`, on (x, y) or a pair each."""
        rows = []
        labels = [y] * len(self.seeds) if isinstance(y, np.ndarray) else list(y)
        _check_one_each("labels", labels, len(self.seeds))
        for seed, logits, targets in zip(self.seeds, self.predict(x), labels, strict=True):
            accuracy, loss = accuracy_and_loss(logits, targets)
            rows.append({"seed": seed, "accuracy": accuracy, "loss": loss})
        return rows

    def clear_gradients(self) -> None:
        """Set the gradients of removed weights to 0.

        They and their optimizer state start at 0, and without a gradient they stay there: cheaper than
        masking weights and state after each step, which a single model needs, as its optimizer is the user's.
        """
        for name, keep in self._keep.items():
            clear(self.values[name].grad, keep)  # type: ignore[arg-type]

    def finish(self, kept: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        """End training; networks in `kept`, by index, go back to these weights, (*shape) each."""
        for value in self.values.values():
            value.requires_grad_(False)
        if kept:
            self.values = {name: value.clone() for name, value in self._last.items()}
        for index, weights in kept.items():
            for name, value in weights.items():
                self.values[name][index] = value

    # -------------------------------------------------------------- forward

    def forward(self, x: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Logits (seeds, batch, outputs) for x (seeds, batch, *input_shape)."""
        values = {INPUT: x}
        for node in self.spec.nodes:
            values[node.name] = self._apply(node, [values[name] for name in node.inputs], training)
        return values[self.spec.output]

    def _apply(self, node: Node, inputs: list[torch.Tensor], training: bool) -> torch.Tensor:
        x = inputs[0]
        if node.op == "dense":
            return self._dense(node, x)
        if node.op in ("activation", "add"):
            return plain_function(node, 0)(*inputs)
        if node.op in ("conv1d", "conv2d"):
            return self._unfold(self._conv(node, self._fold(x)))
        if node.op == "batch_norm":
            return self._unfold(self._batch_norm(node, self._fold(x), training))
        # Without parameters seeds are only more examples: (seeds, batch, ...) -> (seeds * batch, ...).
        flat = [value.reshape(-1, *value.shape[2:]) for value in inputs]
        out = plain_function(node, len(self.spec.shapes[node.inputs[0]]) - 1)(*flat)
        return out.view(len(self.seeds), -1, *out.shape[1:])

    def _dense(self, node: Node, x: torch.Tensor) -> torch.Tensor:
        # (seeds, out, in) times (seeds, in, batch): in this order the kernel's gradient comes in the kernel's
        # own layout, and neither needs a copy.
        kernel, columns = self.values[f"{node.name}/kernel"], x.transpose(1, 2)
        bias = self.values.get(f"{node.name}/bias")
        if bias is None:
            return torch.bmm(kernel, columns).transpose(1, 2)
        return torch.baddbmm(bias.unsqueeze(2), kernel, columns).transpose(1, 2)

    def _fold(self, x: torch.Tensor) -> torch.Tensor:
        """Seeds into channels: (seeds, batch, channels, *spatial) -> (batch, seeds * channels, *spatial)."""
        return x.transpose(0, 1).flatten(1, 2)

    def _unfold(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (len(self.seeds), -1)).transpose(0, 1)

    def _conv(self, node: Node, x: torch.Tensor) -> torch.Tensor:
        o, rank = node.options, x.dim() - 2
        kernel, bias = self.values[f"{node.name}/kernel"], self.values.get(f"{node.name}/bias")
        return (F.conv1d if rank == 1 else F.conv2d)(
            x,
            kernel.flatten(0, 1),  # (seeds * out, in / groups, *spatial): each seed is a group of its own
            None if bias is None else bias.flatten(),
            spatial(o["stride"], rank),
            spatial(o["padding"], rank),
            groups=o["groups"] * len(self.seeds),
        )

    def _batch_norm(self, node: Node, x: torch.Tensor, training: bool) -> torch.Tensor:
        scale, shift, mean, variance = (
            self.values[f"{node.name}/{part}"].view(-1) for part in ("scale", "shift", *_STATISTICS)
        )
        o = node.options
        return F.batch_norm(x, mean, variance, scale, shift, training, o["momentum"], o["eps"])


def _check_one_each(what: str, values: Sequence[object], networks: int) -> None:
    if len(values) != networks:
        refuse(f"{what} must be one array, or a list of one for each of {networks} networks", len(values))


class _StackInTraining:
    """A stack with its optimizer and the data: the `Learner` of its S networks."""

    def __init__(
        self, stack: Stack, sets: Sequence[Data], training: Training, penalties: Sequence[Penalty] | None
    ) -> None:
        self._stack, self._several = stack, len(sets) > 1
        # Sets of their own stand one after the other; `indices` moves each network's order to its own.
        self._x, self._y = (
            torch.from_numpy(np.concatenate([getattr(data, part) for data in sets])).to(stack.device)
            for part in ("x_train", "y_train")
        )
        values = stack.values
        trainable = [
            value.requires_grad_() for name, value in values.items() if not name.endswith(_STATISTICS)
        ]
        # Fused: one kernel updates all stacked parameters, where most of a small network's step is calls.
        self._optimizer = make_optimizer(trainable, training, fused=stack.device.type != "mps")
        self._regularizer: Regularizer | None = None
        if penalties:
            # Of one kind, so that one program computes them; strengths may differ, seed by seed.
            part = "/scale" if penalties[0].kind == "slimming" else "/kernel"
            names = check_penalized(penalties[0].kind, [name for name in values if name.endswith(part)])
            penalized = [values[name] for name in names]
            self._regularizer = Regularizer(penalized, penalties, training, stack.seeds, stacked=True)
        self._kept: dict[int, dict[str, torch.Tensor]] = {}

    def indices(self, orders: np.ndarray) -> torch.Tensor:
        """The orders of the examples, (seeds, examples), on the device."""
        if self._several:
            orders = orders + orders.shape[1] * np.arange(len(orders))[:, None]
        return torch.from_numpy(orders).to(self._stack.device)

    def step(self, batch: torch.Tensor, rate: float) -> torch.Tensor:
        """One optimizer step of all networks at this rate, each on its own examples; (2, seeds)."""
        set_rate(self._optimizer, rate)
        seeds, flat = len(batch), batch.reshape(-1)
        inputs = self._x.index_select(0, flat).view(seeds, -1, *self._x.shape[1:])
        labels = self._y.index_select(0, flat).view(seeds, -1)
        if self._regularizer:
            self._regularizer.before()
        # Classes before examples: the softmax over a last axis of ten is nine times slower on a CPU.
        logits = self._stack.forward(inputs, training=True).transpose(1, 2).contiguous()
        losses = F.cross_entropy(logits, labels, reduction="none").mean(1)
        self._optimizer.zero_grad()
        loss = losses.sum() + self._regularizer.loss() if self._regularizer else losses.sum()
        loss.backward()  # no parameter is shared, so each seed gets its own loss's gradient
        if self._regularizer:
            self._regularizer.after_backward()
        self._stack.clear_gradients()
        self._optimizer.step()
        if self._regularizer:
            self._regularizer.after_step(rate)
        # max, not argmax: over a middle axis its indices come fifteen times sooner
        correct = (logits.detach().max(1).indices == labels).sum(1)
        return torch.stack([losses.detach() * batch.shape[1], correct])

    def predict(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of every network, (seeds, examples, outputs), for shared inputs or one array each."""
        return self._stack.predict(sets if self._several else sets[0])

    def keep(self, index: int) -> None:
        """Set aside the weights of one network."""
        self._kept[index] = {
            name: value[index].detach().clone() for name, value in self._stack.values.items()
        }

    def restore(self) -> None:
        """Give the networks back what was kept of them; the weights of the last step stay beside them."""
        self._stack.finish(self._kept)


learner = _StackInTraining
