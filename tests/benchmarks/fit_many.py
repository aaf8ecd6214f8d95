"""`fit_many` against a warm, plain PyTorch loop: equal weights first, then seconds per model, side by side.

    python tests/benchmarks/fit_many.py

Both sides run in this process, in turns. The loop is what a reader would write; nothing in it is slowed down.
Weights are compared in double precision, and only timed in single: Adam divides by the size of a gradient, so a
weight whose gradient is all rounding moves by whole steps, and after one epoch in single precision even the
plain loop is 0.11 away from itself on another number of threads.
The arithmetic limit is the time that the multiplications alone would take at the rate of a large matrix
product measured here; no batching can pass it.
"""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import torch

import nnopt_lib as nnopt
from nnopt_lib import measure

LARGEST = 1e-9  # float64 rounds at 1e-16; one wrong batch or step moves weights by 1e-4 and more


def plain_loop(
    spec: nnopt.NetSpec, x: np.ndarray, y: np.ndarray, training: nnopt.Training, seed: int
) -> torch.nn.Module:
    """The loop as one writes it by hand, on the same first weights and the same batches as `fit_many`."""
    model = nnopt.build(spec, seed=seed)
    images, labels = torch.as_tensor(x), torch.as_tensor(y)
    model.to(images.dtype)
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    for epoch in range(training.epochs):
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(images)))
        for batch in order.split(training.batch_size):
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def seconds(run, repeats: int) -> list[float]:
    """Wall-clock seconds of each call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times


def multiply_rate() -> float:
    """Multiply-accumulates per second of a 1024 x 1024 float32 product, the best of ten."""
    a = torch.randn(1024, 1024)
    return 1024**3 / min(seconds(lambda: a @ a, 10))


def largest_difference(spec: nnopt.NetSpec, data: nnopt.Data, training: nnopt.Training, seeds) -> float:
    """Largest difference of any weight between stack and loop after one epoch, both in double precision."""
    once = dataclasses.replace(training, epochs=1)
    x = data.x_train.astype(np.float64)
    # `Data` keeps its images in single precision; `fit_many` reads these four arrays of whatever holds them.
    double = SimpleNamespace(
        x_train=x, y_train=data.y_train, x_validation=x[:0], y_validation=data.y_train[:0]
    )
    first = [nnopt.get_weights(nnopt.build(spec, seed=seed)) for seed in seeds]
    weights = [{name: value.astype(np.float64) for name, value in each.items()} for each in first]
    stack = nnopt.fit_many(spec, double, once, seeds=seeds, weights=weights)
    worst = 0.0
    for index, seed in enumerate(seeds):
        loop = plain_loop(spec, x, data.y_train, once, seed).state_dict()
        for value, looped in zip(stack.weights(index).values(), loop.values(), strict=True):
            worst = max(worst, float(abs(value - looped.numpy()).max()))
    return worst


def compare(title: str, spec, data, training, counts: list[tuple[int, float]]) -> None:
    """Print one table: seeds, seconds per model of both sides, ratio, bar, distance to the limit."""
    difference = largest_difference(spec, data, training, [0, 1, 2])
    print(
        f"\n{title}: largest difference of any weight after one epoch in double precision {difference:.1e} "
        f"(must be below {LARGEST:g})"
    )
    if difference >= LARGEST:
        raise SystemExit("stack and loop do not agree; timing them would mean nothing")
    # forward, gradient of the kernels, gradient of the inputs (not needed by the first layer)
    costs = [cost.macs for cost in measure.count_by_node(spec).values() if cost.macs]
    macs = (3 * sum(costs) - costs[0]) * len(data.x_train) * training.epochs
    limit = macs / multiply_rate()
    plain_loop(spec, data.x_train, data.y_train, training, 0)  # warm
    print(f"{'seeds':>6} {'loop s/model':>13} {'stack s/model':>14} {'ratio':>7} {'bar':>5} {'limit':>7}")
    for count, bar in counts:
        seeds = list(range(count))
        nnopt.fit_many(spec, data, training, seeds=seeds[:2])
        loops, stacks = [], []
        for _ in range(3):  # in turns, so that a noisy neighbor disturbs both
            loops += seconds(lambda: plain_loop(spec, data.x_train, data.y_train, training, 0), 3)
            stacks += seconds(lambda s=seeds: nnopt.fit_many(spec, data, training, seeds=s), 1)
        loop, stack = float(np.median(loops)), float(np.median(stacks)) / count
        ratio = loop / stack
        mark = "met" if ratio >= bar else "MISSED"
        print(f"{count:6d} {loop:13.4f} {stack:14.5f} {ratio:6.1f}x {bar:4.0f}x {loop / limit:6.0f}x  {mark}")


def main() -> None:
    """All tables. Validation data is left out on both sides: only training is compared."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    digits = nnopt.load_data("digits", validation=0)
    article = nnopt.mlp((32,), inputs=64, outputs=10)
    recipe = nnopt.Training(epochs=10, batch_size=32, learning_rate=0.01, momentum=0.9)
    compare("article's network, digits, 10 epochs", article, digits, recipe, [(50, 10), (200, 20)])
    mnist1d = nnopt.load_data("mnist1d", validation=0)
    recipe = nnopt.Training(epochs=2, batch_size=100, optimizer="adam", learning_rate=1e-2)
    compare("MNIST-1D MLP, 2 epochs", nnopt.mnist1d_mlp(), mnist1d, recipe, [(50, 4)])


if __name__ == "__main__":
    main()
