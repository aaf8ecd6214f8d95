"""Many seeds at once: one program trains a whole stack of networks of equal shape.

A small network's training step costs mostly the calls, not the arithmetic. Stacking the parameters of S
seeds along a first axis turns S small matrix products into one batched product, so the calls are paid once.
Each seed keeps its own first weights, its own order of batches and its own early stopping, so that its
result equals the one-by-one loop's up to float32 rounding. `torch.func.vmap` gives the same program;
writing the few operations out is faster, since folding seeds into the batch or the channels needs no copies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from nnopt_lib.measure import accuracy_and_loss
from nnopt_lib.operations import spatial
from nnopt_lib.spec import INPUT, NetSpec, Node
from nnopt_lib.torch_backend import make_optimizer, plain_function, resolve_device
from nnopt_lib.training import EarlyStopping, History, Training, batch_order

if TYPE_CHECKING:
    from nnopt_lib.data import Data

_STATISTICS = ("mean", "variance")


class Stack:
    """S trained networks of one description. `histories[i]` and `weights(i)` belong to ``seeds[i]``."""

    def __init__(
        self, spec: NetSpec, seeds: Sequence[int], weights: list[dict[str, np.ndarray]], device: str
    ) -> None:
        self.spec, self.seeds, self.device = spec, list(seeds), resolve_device(device)
        self.histories = [History(seed) for seed in seeds]
        # name -> (seeds, *shape), canonical
        self._values = {
            name: torch.from_numpy(np.stack([w[name] for w in weights])).to(self.device)
            for name in weights[0]
        }

    def weights(self, index: int) -> dict[str, np.ndarray]:
        """Copies of one network's weights, by canonical name, as `set_weights` takes them."""
        return {name: value[index].detach().cpu().numpy().copy() for name, value in self._values.items()}

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

    def fit(self, data: Data, training: Training) -> None:
        """Train every network of the stack; afterwards the weights are those of each seed's kept epoch."""
        begin = time.perf_counter()
        x, y = torch.as_tensor(data.x_train).to(self.device), torch.as_tensor(data.y_train).to(self.device)
        trainable = [
            value.requires_grad_() for name, value in self._values.items() if not name.endswith(_STATISTICS)
        ]
        optimizer = make_optimizer(trainable, training, fused=self.device.type != "mps")
        stoppings = [EarlyStopping(training.patience) for _ in self.seeds]
        kept = {name: value.detach().clone() for name, value in self._values.items()}
        for epoch in range(training.epochs):
            rows = self._epoch(x, y, training, epoch, optimizer)
            if len(data.x_validation):
                for row, scores in zip(
                    rows, self.evaluate(data.x_validation, data.y_validation), strict=True
                ):
                    row |= {f"validation_{name}": scores[name] for name in ("loss", "accuracy")}
            self._record(rows, stoppings, kept, training)
            if all(stopping.done for stopping in stoppings):
                break
        for value in trainable:
            value.requires_grad_(False)
        if training.patience is not None:
            self._values = kept
        for history, stopping in zip(self.histories, stoppings, strict=True):
            history.kept_epoch, history.duration_seconds = stopping.best_epoch, time.perf_counter() - begin

    def _epoch(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        training: Training,
        epoch: int,
        optimizer: torch.optim.Optimizer,
    ) -> list[dict[str, float]]:
        """One pass over the training set by all networks, each in its own order."""
        seeds = len(self.seeds)
        orders = torch.from_numpy(np.stack([batch_order(len(x), training, s, epoch) for s in self.seeds]))
        loss_sum = torch.zeros(seeds, device=self.device)
        correct = torch.zeros(seeds, device=self.device)
        for batch in orders.to(self.device).split(training.batch_size, 1):  # (seeds, batch)
            flat = batch.reshape(-1)
            inputs = x.index_select(0, flat).view(seeds, -1, *x.shape[1:])
            labels = y.index_select(0, flat).view(seeds, -1)
            # Classes before examples: the softmax over a last axis of ten is nine times slower on a CPU.
            logits = self._forward(inputs, training=True).transpose(1, 2).contiguous()
            losses = F.cross_entropy(logits, labels, reduction="none").mean(1)
            optimizer.zero_grad()
            losses.sum().backward()  # no parameter is shared, so each seed gets its own loss's gradient
            optimizer.step()
            loss_sum += losses.detach() * batch.shape[1]
            # max, not argmax: over a middle axis its indices come fifteen times sooner
            correct += (logits.detach().max(1).indices == labels).sum(1)
        means = zip((loss_sum / len(x)).tolist(), (correct / len(x)).tolist(), strict=True)
        return [{"epoch": epoch + 1, "train_loss": a, "train_accuracy": b} for a, b in means]

    def _record(
        self,
        rows: list[dict[str, float]],
        stoppings: list[EarlyStopping],
        kept: dict[str, torch.Tensor],
        training: Training,
    ) -> None:
        """Add this epoch's rows; keep the weights of seeds that are better now; leave seeds that are done."""
        for index, (row, stopping) in enumerate(zip(rows, stoppings, strict=True)):
            if stopping.done:
                continue
            self.histories[index].rows.append(row)
            if stopping.better(int(row["epoch"]), row.get("validation_loss", 0.0)) and training.patience:
                for name, value in self._values.items():
                    kept[name][index] = value[index].detach()
