"""Many seeds at once: one program trains a whole stack of networks of equal shape.

A small network's training step costs mostly the calls, not the arithmetic. Stacking the parameters of S
seeds along a first axis turns S small matrix products into one batched product, so the calls are paid once.
Each seed keeps its own first weights, its own order of batches and its own early stopping, so that its
result equals the one-by-one loop's up to float32 rounding. `torch.func.vmap` gives the same program;
writing the few operations out is faster, since folding seeds into the batch or the channels needs no copies.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from nnopt_lib.backends.torch.build import plain_function, resolve_device
from nnopt_lib.backends.torch.fit import make_optimizer
from nnopt_lib.backends.torch.masks import clear, keep_bits
from nnopt_lib.backends.torch.penalties import Regularizer
from nnopt_lib.measure.statistics import accuracy_and_loss
from nnopt_lib.pruning.penalties import Penalty, check_penalized
from nnopt_lib.structure.operations import spatial
from nnopt_lib.structure.spec import INPUT, NetSpec, Node
from nnopt_lib.training.loop import EarlyStopping, Step, batch_order, plan
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
        self.histories = [History(seed) for seed in seeds]
        # name -> (seeds, *shape), canonical
        self._values = {
            name: torch.from_numpy(np.stack([w[name] for w in weights])).to(self.device)
            for name in weights[0]
        }
        self._keep = self._stacked(masks)  # bits to keep, of the same shapes, for those that a mask names
        for name, keep in self._keep.items():
            clear(self._values[name], keep)
        self._last = self._values

    def _stacked(self, masks: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, torch.Tensor]:
        names = {name for own in masks if own for name in own}
        stacked = {}
        for name in sorted(names):
            whole = np.ones(self._values[name].shape[1:], bool)
            arrays = [own[name] if own and name in own else whole for own in masks]
            stacked[name] = keep_bits(np.stack(arrays), self._values[name])
        return stacked

    def weights(self, index: int, *, last: bool = False) -> dict[str, np.ndarray]:
        """Copies of one network's weights, by canonical name, as `set_weights` takes them.

        Those of the kept row (with patience the best on validation data); with `last` those of the last step.
        """
        values = self._last if last else self._values
        return {name: value[index].detach().cpu().numpy().copy() for name, value in values.items()}

    def predict(self, x: np.ndarray, batch_size: int = 1024) -> np.ndarray:
        """Logits of every network for the same `x`, shape (seeds, examples, outputs)."""
        seeds = len(self.seeds)
        with torch.no_grad():
            batches = torch.as_tensor(x).to(self.device).split(batch_size)
            outputs = [self._forward(b.expand(seeds, *b.shape), training=False) for b in batches]
            return torch.cat(outputs, 1).float().cpu().numpy()

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> list[dict[str, float]]:
        """One row per seed: `seed`, `accuracy` and mean cross-entropy `loss` on (x, y)."""
        rows = []
        for seed, logits in zip(self.seeds, self.predict(x), strict=True):
            accuracy, loss = accuracy_and_loss(logits, y)
            rows.append({"seed": seed, "accuracy": accuracy, "loss": loss})
        return rows

    # -------------------------------------------------------------- forward

    def _forward(self, x: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Logits (seeds, batch, outputs) for x (seeds, batch, *input_shape)."""
        values = {INPUT: x}
        for node in self.spec.nodes:
            values[node.name] = self._apply(node, [values[name] for name in node.inputs], training)
        return values[self.spec.output]

    def _apply(self, node: Node, inputs: list[torch.Tensor], training: bool) -> torch.Tensor:
        x, seeds = inputs[0], len(self.seeds)
        if node.op == "dense":
            # (seeds, out, in) times (seeds, in, batch): in this order the kernel's gradient comes in the
            # kernel's own layout, and neither needs a copy.
            kernel, columns = self._values[f"{node.name}/kernel"], x.transpose(1, 2)
            bias = self._values.get(f"{node.name}/bias")
            out = (
                torch.bmm(kernel, columns)
                if bias is None
                else torch.baddbmm(bias.unsqueeze(2), kernel, columns)
            )
            return out.transpose(1, 2)
        if node.op in ("activation", "add"):
            return plain_function(node, 0)(*inputs)
        if node.op in ("conv1d", "conv2d"):
            return self._unfold(self._conv(node, self._fold(x)))
        if node.op == "batch_norm":
            return self._unfold(self._batch_norm(node, self._fold(x), training))
        # Without parameters seeds are only more examples: (seeds, batch, ...) -> (seeds * batch, ...).
        flat = [value.reshape(-1, *value.shape[2:]) for value in inputs]
        out = plain_function(node, len(self.spec.shapes[node.inputs[0]]) - 1)(*flat)
        return out.view(seeds, -1, *out.shape[1:])

    def _fold(self, x: torch.Tensor) -> torch.Tensor:
        """Seeds into channels: (seeds, batch, channels, *spatial) -> (batch, seeds * channels, *spatial)."""
        return x.transpose(0, 1).flatten(1, 2)

    def _unfold(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (len(self.seeds), -1)).transpose(0, 1)

    def _conv(self, node: Node, x: torch.Tensor) -> torch.Tensor:
        o, rank = node.options, x.dim() - 2
        kernel, bias = self._values[f"{node.name}/kernel"], self._values.get(f"{node.name}/bias")
        return (F.conv1d if rank == 1 else F.conv2d)(
            x,
            kernel.flatten(0, 1),
            None if bias is None else bias.flatten(),
            spatial(o["stride"], rank),
            spatial(o["padding"], rank),
            groups=o["groups"] * len(self.seeds),
        )

    def _batch_norm(self, node: Node, x: torch.Tensor, training: bool) -> torch.Tensor:
        scale, shift, mean, variance = (
            self._values[f"{node.name}/{part}"].view(-1) for part in ("scale", "shift", *_STATISTICS)
        )
        o = node.options
        return F.batch_norm(x, mean, variance, scale, shift, training, o["momentum"], o["eps"])

    # -------------------------------------------------------------- training

    def fit(self, data: Data, training: Training, penalties: Sequence[Penalty] | None = None) -> None:
        """Train every network of the stack; `patience` sets aside a network's best weights as it goes."""
        begin = time.perf_counter()
        x, y = torch.as_tensor(data.x_train).to(self.device), torch.as_tensor(data.y_train).to(self.device)
        trainable = [
            value.requires_grad_() for name, value in self._values.items() if not name.endswith(_STATISTICS)
        ]
        optimizer = make_optimizer(trainable, training, fused=self.device.type != "mps")
        regularizer = None
        if penalties:
            part = "/scale" if penalties[0].kind == "slimming" else "/kernel"
            names = check_penalized(penalties[0].kind, [n for n in self._values if n.endswith(part)])
            penalized = [self._values[name] for name in names]
            regularizer = Regularizer(penalized, penalties, training, self.seeds, stacked=True)
        stoppings = [EarlyStopping(training.patience) for _ in self.seeds]
        kept = {} if training.patience is None else {n: v.detach().clone() for n, v in self._values.items()}
        sums = torch.zeros(2, len(self.seeds), device=self.device)  # loss, correct since the last row
        seen = 0
        for step in plan(len(x), training):
            if step.part.start == 0:
                orders = [batch_order(len(x), training, seed, step.epoch) for seed in self.seeds]
                order = torch.from_numpy(np.stack(orders)).to(self.device)  # (seeds, examples)
            batch = order[:, step.part]
            sums += self._step(x, y, batch, optimizer, regularizer)
            seen += batch.shape[1]
            if step.report:
                self._record(step, (sums / seen).tolist(), data, stoppings, kept)
                sums.zero_()
                seen = 0
            if all(stopping.done for stopping in stoppings):
                break
        for value in trainable:
            value.requires_grad_(False)
        if kept:
            self._values = kept
        for history, stopping in zip(self.histories, stoppings, strict=True):
            history.kept_row, history.duration_seconds = stopping.best_row, time.perf_counter() - begin

    def _step(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        batch: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        regularizer: Regularizer | None,
    ) -> torch.Tensor:
        """One optimizer step of all networks, each on its own examples; (sum of losses, correct) per seed."""
        seeds, flat = len(self.seeds), batch.reshape(-1)
        inputs = x.index_select(0, flat).view(seeds, -1, *x.shape[1:])
        labels = y.index_select(0, flat).view(seeds, -1)
        # Classes before examples: the softmax over a last axis of ten is nine times slower on a CPU.
        if regularizer:
            regularizer.before()
        logits = self._forward(inputs, training=True).transpose(1, 2).contiguous()
        losses = F.cross_entropy(logits, labels, reduction="none").mean(1)
        optimizer.zero_grad()
        loss = losses.sum() + regularizer.loss() if regularizer else losses.sum()
        loss.backward()  # no parameter is shared, so each seed gets its own loss's gradient
        if regularizer:
            regularizer.after_backward()
        for name, keep in self._keep.items():
            # Removed weights and their optimizer state start at 0; without a gradient they stay there.
            clear(self._values[name].grad, keep)  # type: ignore[arg-type]
        optimizer.step()
        if regularizer:
            regularizer.after_step()
        # max, not argmax: over a middle axis its indices come fifteen times sooner
        correct = (logits.detach().max(1).indices == labels).sum(1)
        return torch.stack([losses.detach() * batch.shape[1], correct])

    def _record(
        self,
        step: Step,
        means: list[list[float]],
        data: Data,
        stoppings: list[EarlyStopping],
        kept: dict[str, torch.Tensor],
    ) -> None:
        """Add a row per seed; keep the weights of seeds that are better now; leave seeds that are done."""
        validation: list[dict[str, float]] = [{} for _ in self.seeds]
        if len(data.x_validation):
            validation = self.evaluate(data.x_validation, data.y_validation)
        for index, stopping in enumerate(stoppings):
            if stopping.done:
                continue
            row: dict[str, float] = {"epoch": step.epoch, "step": step.number}
            row |= {"train_loss": means[0][index], "train_accuracy": means[1][index]}
            row |= {f"validation_{n}": v for n, v in validation[index].items() if n in ("loss", "accuracy")}
            self.histories[index].rows.append(row)
            if stopping.better(row.get("validation_loss", 0.0)):
                for name in kept:
                    kept[name][index] = self._values[name][index].detach()
