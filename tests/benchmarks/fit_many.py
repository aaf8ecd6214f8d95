"""`fit_many` against a warm, plain PyTorch loop: equal weights first, then seconds per model, side by side.

    python tests/benchmarks/fit_many.py

Both sides run in this process, in turns. The loop is what a reader would write; nothing in it is slowed down.
The arithmetic limit is the time that the multiplications alone would take at the rate of a large matrix
product measured here; no batching can pass it.
"""

from __future__ import annotations

import time

import numpy as np
import torch

import nnopt_lib as nnopt
from nnopt_lib import measure


def plain_loop(spec: nnopt.NetSpec, data: nnopt.Data, training: nnopt.Training, seed: int) -> torch.nn.Module:
    """The loop as one writes it by hand, on the same first weights and the same batches as `fit_many`."""
    model = nnopt.build(spec, seed=seed)
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    x, y = torch.as_tensor(data.x_train), torch.as_tensor(data.y_train)
    for epoch in range(training.epochs):
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(x)))
        for batch in order.split(training.batch_size):
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
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


def largest_difference(spec, data, training, seeds) -> float:
    """Largest difference of any weight between stack and loop after one epoch."""
    from dataclasses import replace

    once = replace(training, epochs=1)
    stack = nnopt.fit_many(spec, data, once, seeds=seeds)
    worst = 0.0
    for index, seed in enumerate(seeds):
        weights = nnopt.get_weights(plain_loop(spec, data, once, seed))
        worst = max(worst, *(float(abs(stack.weights(index)[n] - w).max()) for n, w in weights.items()))
    return worst


def compare(title: str, spec, data, training, counts: list[tuple[int, float]]) -> None:
    """Print one table: seeds, seconds per model of both sides, ratio, bar, distance to the limit."""
    difference = largest_difference(spec, data, training, [0, 1, 2])
    print(
        f"\n{title}: largest difference of any weight after one epoch {difference:.1e} (must be below 1e-4)"
    )
    if difference >= 1e-4:
        raise SystemExit("stack and loop do not agree; timing them would mean nothing")
    # forward, gradient of the kernels, gradient of the inputs (not needed by the first layer)
    costs = [cost.macs for cost in measure.count_by_node(spec).values() if cost.macs]
    macs = (3 * sum(costs) - costs[0]) * len(data.x_train) * training.epochs
    limit = macs / multiply_rate()
    plain_loop(spec, data, training, 0)  # warm
    print(f"{'seeds':>6} {'loop s/model':>13} {'stack s/model':>14} {'ratio':>7} {'bar':>5} {'limit':>7}")
    for count, bar in counts:
        seeds = list(range(count))
        nnopt.fit_many(spec, data, training, seeds=seeds[:2])
        loops, stacks = [], []
        for _ in range(3):  # in turns, so that a noisy neighbor disturbs both
            loops += seconds(lambda: plain_loop(spec, data, training, 0), 3)
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
