"""`prune` and `make_masks` against what one would use instead: equal masks first, then seconds, side by side.

    python tests/benchmarks/masks.py

Real layer shapes (ResNet-50, ViT-B/16), float32. `torch.nn.utils.prune.global_unstructured` is compared with
`nnopt.prune`: both end with the weights masked. The selections of PyTorch and NumPy are compared with
`make_masks`: all end with a boolean mask for every layer. Every side is called in turns in this process. The
floor is one read of all weights and one write of all masks; no method that gives masks can pass it. Added
memory is the highest resident memory during one call in a fresh process, beside the masks themselves. The
last table trains lottery tickets, ten seeds, in a stack and one after the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import nnopt_lib as nnopt
from nnopt_lib import measure, schedules
from nnopt_lib.pruning.scores import magnitude

SPARSITIES = (0.5, 0.9, 0.99)
Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """Kernels of all convolutions and of the last layer; biases and batch normalization are left out."""
    shapes: Shapes = [(64, 3, 7, 7)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:  # the shortcut's own projection
                shapes.append((4 * width, inputs, 1, 1))
            inputs = 4 * width
    return [*shapes, (1000, 2048)]


def vit_b16() -> Shapes:
    """Kernels of the patches' projection, of twelve blocks (attention in and out, two dense), of the head."""
    block: Shapes = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
    return [(768, 3, 16, 16), *(12 * block), (1000, 768)]


NETWORKS = {"ResNet-50": (resnet50, 25_502_912), "ViT-B/16": (vit_b16, 86_292_480)}


def make_model(shapes: Shapes) -> nn.Module:
    """Layers of these kernels, not connected: only their weights matter here."""
    with torch.device("meta"):
        layers = [nn.Conv2d(s[1], s[0], s[2:]) if len(s) > 2 else nn.Linear(s[1], s[0]) for s in shapes]
    return nn.ModuleList(layers).to_empty(device="cpu")


def draw_weights(shapes: Shapes) -> list[torch.Tensor]:
    """Normal weights scaled by their fan-in, each threshold's score made unique, so that masks must agree."""
    random = np.random.default_rng(0)
    arrays = [
        random.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
        for shape in shapes
    ]
    flat = np.concatenate([array.ravel() for array in arrays])
    scores = np.abs(flat)
    for sparsity in SPARSITIES:
        rank = round(sparsity * flat.size) - 1  # of the highest removed score, from 0
        threshold = np.partition(scores, rank)[rank]
        tied = np.flatnonzero(scores == threshold)
        below = rank - np.count_nonzero(scores < threshold)
        flat[tied[:below]] *= np.float32(0.999)
        flat[tied[below + 1 :]] *= np.float32(1.001)
        scores[tied] = np.abs(flat[tied])
    parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
    return [torch.from_numpy(part.reshape(shape)) for part, shape in zip(parts, shapes, strict=True)]


# ---------------------------------------------------------------- the sides: weights in, masks out


def by_kthvalue(weights: list[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """Every score in one tensor, the highest removed one by `torch.kthvalue`."""
    scores = torch.cat([weight.flatten() for weight in weights]).abs_()
    threshold = torch.kthvalue(scores, round(sparsity * scores.numel())).values
    return _split(scores > threshold, weights)


def by_topk(weights: list[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """The smaller side is asked for: the kept ones above one half, else the removed ones."""
    scores = torch.cat([weight.flatten() for weight in weights]).abs_()
    remove = round(sparsity * scores.numel())
    keep = scores.numel() - remove
    if keep < remove:
        kept = torch.topk(scores, keep, sorted=False).indices
        mask = torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, kept, True)
    else:
        gone = torch.topk(scores, remove, largest=False, sorted=False).indices
        mask = torch.ones_like(scores, dtype=torch.bool).index_fill_(0, gone, False)
    return _split(mask, weights)


def by_partition(weights: list[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """`numpy.partition` of a copy of the scores; the masks are compared with the layers' own weights."""
    scores = np.concatenate([weight.numpy().ravel() for weight in weights])
    np.abs(scores, out=scores)
    rank = round(sparsity * scores.size) - 1
    scores.partition(rank)
    threshold = float(scores[rank])
    return [weight.abs() > threshold for weight in weights]


def _split(mask: torch.Tensor, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    parts = mask.split([weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def by_make_masks(weights: list[torch.Tensor], sparsity: float) -> nnopt.Masks:
    """Ours, on the same memory."""
    arrays = {f"{number}/kernel": weight.numpy() for number, weight in enumerate(weights)}
    return nnopt.make_masks(magnitude(arrays), sparsity=sparsity)


def floor(weights: list[torch.Tensor], sparsity: float) -> list[np.ndarray]:
    """One read of all weights and one write of all masks, and nothing else: a single comparison each."""
    return [np.greater(weight.numpy(), np.float32(0)) for weight in weights]


SELECTIONS: dict[str, Callable] = {
    "make_masks": by_make_masks,
    "kthvalue": by_kthvalue,
    "topk": by_topk,
    "partition": by_partition,
}


def prune_ours(weights: list[torch.Tensor], model: nn.Module, sparsity: float) -> Callable[[], nnopt.Masks]:
    """A call of `nnopt.prune` on a model that has these weights again."""
    with torch.no_grad():
        for layer, weight in zip(model, weights, strict=True):
            layer.weight.copy_(weight)
    return lambda: nnopt.prune(model, sparsity=sparsity)


def prune_torch(weights: list[torch.Tensor], sparsity: float) -> Callable[[], list[torch.Tensor]]:
    """A call of PyTorch's own global pruning on new layers; it does not change the weights it is given."""
    layers = []
    for weight in weights:
        layer = nn.Module()
        layer.weight = nn.Parameter(weight)
        layers.append((layer, "weight"))

    def run() -> list[torch.Tensor]:
        amount = round(sparsity * sum(weight.numel() for weight in weights))
        torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=amount)
        return [layer.weight_mask for layer, _ in layers]

    return run


def assert_equal(name: str, masks: list | Mapping, expected: nnopt.Masks) -> None:
    """All masks bit by bit, or no numbers."""
    arrays = masks.values() if isinstance(masks, Mapping) else masks
    for own, mask in zip(arrays, expected.values(), strict=True):
        if not np.array_equal(np.asarray(own).astype(bool), mask):
            raise SystemExit(f"{name} gives other masks; timing it would mean nothing")


# ---------------------------------------------------------------- tables


def timed(run: Callable) -> tuple[float, object]:
    """Seconds of one call, and its result."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def verdict(ratio: float, bar: float) -> str:
    """The ratio with its bar."""
    return f"{ratio:6.1f}x of {bar:.0f}x {'met' if ratio >= bar else 'MISSED'}"


def compare(title: str, repeats: int = 7, slow_repeats: int = 1) -> None:
    """One row per sparsity: medians of every side in seconds, both ratios, the distance to the floor."""
    shapes, expected_size = NETWORKS[title][0](), NETWORKS[title][1]
    assert sum(map(math.prod, shapes)) == expected_size
    weights, model = draw_weights(shapes), make_model(shapes)
    print(f"\n{title}: {len(shapes)} kernels, {expected_size:,} weights, seconds (median of {repeats};")
    print(f"global_unstructured of {slow_repeats})")
    print(
        f"{'sparsity':>8} {'global_unstr.':>13} {'prune':>7} {'ratio of bar':>20}"
        f" {'kthvalue':>9} {'topk':>7} {'partition':>9} {'make_masks':>10} {'best / ours, of bar':>20}"
        f" {'floor':>7} {'ours / floor':>12}"
    )
    for sparsity in SPARSITIES:
        seconds: dict[str, list[float]] = {}
        expected = by_make_masks(weights, sparsity)
        if expected.removed != round(sparsity * expected_size):
            raise SystemExit("make_masks removes another number of weights")
        for name, select in SELECTIONS.items():  # also warms them
            assert_equal(name, select(weights, sparsity), expected)
        for turn in range(repeats):
            for name, select in {**SELECTIONS, "floor": floor}.items():
                seconds.setdefault(name, []).append(timed(lambda s=select: s(weights, sparsity))[0])
            once, masks = timed(prune_ours(weights, model, sparsity))
            seconds.setdefault("prune", []).append(once)
            if turn == 0:
                assert_equal("prune", masks, expected)
            if turn < slow_repeats:
                once, masks = timed(prune_torch(weights, sparsity))
                seconds.setdefault("global_unstructured", []).append(once)
                assert_equal("global_unstructured", masks, expected)
        t = {name: float(np.median(values)) for name, values in seconds.items()}
        best = min(t[name] for name in SELECTIONS if name != "make_masks")
        print(
            f"{sparsity:8} {t['global_unstructured']:13.2f} {t['prune']:7.3f}"
            f" {verdict(t['global_unstructured'] / t['prune'], 40):>20}"
            f" {t['kthvalue']:9.3f} {t['topk']:7.3f} {t['partition']:9.3f} {t['make_masks']:10.4f}"
            f" {verdict(best / t['make_masks'], 2):>20} {t['floor']:7.4f} {t['make_masks'] / t['floor']:11.1f}x"
        )


def added_memory(title: str, side: str, sparsity: float) -> float:
    """Bytes added at most during one call, beside the masks, over the model's bytes. In a fresh process."""
    weights = draw_weights(NETWORKS[title][0]())
    small = [torch.randn(64, 64)]
    if side in SELECTIONS:
        SELECTIONS[side](small, sparsity)  # load what is loaded on first use
        run = lambda: SELECTIONS[side](weights, sparsity)
    elif side == "prune":
        model = make_model(NETWORKS[title][0]())
        nnopt.prune(nn.Linear(64, 64), sparsity=sparsity)
        run = prune_ours(weights, model, sparsity)
    else:
        prune_torch(small, sparsity)()
        run = prune_torch(weights, sparsity)
    results: list = []
    with contextlib.suppress(AttributeError, OSError):  # glibc: what drawing the weights left free goes back
        ctypes.CDLL(None).malloc_trim(0)
    added = measure.peak_memory(lambda: results.append(run()))  # the masks live on, as they would
    size = sum(weight.numel() for weight in weights)
    mask_bytes = 4 * size if side == "global_unstructured" else size  # its masks are float32
    return (added - mask_bytes) / (4 * size)


def compare_memory(title: str) -> None:
    """One row: each side's added memory as a fraction of the model's bytes."""
    print(f"\n{title}: memory added beside the masks, as a fraction of the model's bytes (sparsity 0.9)")
    sides = ["prune", *SELECTIONS, "global_unstructured"]
    context = multiprocessing.get_context("spawn")
    for side in sides:
        with context.Pool(1) as pool:
            fraction = pool.apply(added_memory, (title, side, 0.9))
        bar = f"below 0.5 {'met' if fraction < 0.5 else 'MISSED'}" if side in ("prune", "make_masks") else ""
        print(f"{side:>20} {fraction:6.2f} {bar}".rstrip())


# ---------------------------------------------------------------- a lottery-ticket sweep


def sweep_by_loop(
    spec: nnopt.NetSpec, data: nnopt.Data, training: nnopt.Training, seeds: list[int], targets: list[float]
) -> list[list[dict[str, np.ndarray]]]:
    """Trained weights of every level and seed, one model after the other, as one writes it by hand."""
    x, y = torch.as_tensor(data.x_train), torch.as_tensor(data.y_train)

    def train(model: nn.Module, masks: nnopt.Masks, seed: int) -> dict[str, np.ndarray]:
        optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
        nnopt.hold(model, masks, optimizer)
        for epoch in range(training.epochs):
            order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(x)))
            for batch in order.split(training.batch_size):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return nnopt.get_weights(model)

    columns = []
    for seed in seeds:
        model = nnopt.build(spec, seed=seed)
        levels = nnopt.iterative_prune(
            model, lambda m, k, s=seed: train(m, k, s), targets, rewind_to=nnopt.get_weights(model)
        )
        columns.append([level.result for level in levels])
    return [list(level) for level in zip(*columns, strict=True)]


def sweep_by_stack(
    spec: nnopt.NetSpec, data: nnopt.Data, training: nnopt.Training, seeds: list[int], targets: list[float]
) -> list[list[dict[str, np.ndarray]]]:
    """The same by `fit_many`: one stack per level."""
    first = [nnopt.get_weights(nnopt.build(spec, seed=seed)) for seed in seeds]
    weights, masks, levels = first, [None] * len(seeds), []
    for target in targets:
        kernels = [{n: w for n, w in own.items() if n.endswith("/kernel")} for own in weights]
        masks = [
            nnopt.make_masks(magnitude(own), sparsity=target, previous=before)
            for own, before in zip(kernels, masks, strict=True)
        ]
        stack = nnopt.fit_many(spec, data, training, seeds=seeds, weights=first, masks=masks, device="cpu")
        weights = [stack.weights(number) for number in range(len(seeds))]
        levels.append(weights)
    return levels


def compare_sweeps() -> None:
    """Equal weights after an epoch of the first pruned level, then seconds of whole sweeps."""
    data = nnopt.load_data("mnist1d", validation=0)
    seeds, targets = list(range(10)), [0.0, *schedules.exponential(1 - 0.8**3, 3)]
    print(f"\nlottery tickets, MNIST-1D, {len(seeds)} seeds, {len(targets)} levels, 2 epochs each, Adam")
    print(f"{'network':>16} {'largest difference':>18} {'loop s':>8} {'fit_many s':>10} {'ratio':>7}")
    for hidden in ((100,), (500,), (100, 100)):
        spec = nnopt.mlp(hidden, inputs=40, outputs=10)
        once = nnopt.Training(epochs=1, batch_size=100, optimizer="adam", learning_rate=1e-3)
        levels = [sweep(spec, data, once, seeds[:3], [0.5]) for sweep in (sweep_by_loop, sweep_by_stack)]
        pairs = zip(*(level[0] for level in levels), strict=True)
        difference = max(float(abs(ours[n] - own[n]).max()) for ours, own in pairs for n in ours)
        if difference >= 1e-4:
            raise SystemExit(f"stack and loop differ by {difference:.1e}; timing them would mean nothing")
        recipe = nnopt.Training(epochs=2, batch_size=100, optimizer="adam", learning_rate=1e-3)
        loops, stacks = [], []
        for _ in range(3):  # in turns
            loops.append(timed(lambda s=spec, r=recipe: sweep_by_loop(s, data, r, seeds, targets))[0])
            stacks.append(timed(lambda s=spec, r=recipe: sweep_by_stack(s, data, r, seeds, targets))[0])
        loop, stack = float(np.median(loops)), float(np.median(stacks))
        name = "40-" + "-".join(map(str, hidden)) + "-10"
        print(f"{name:>16} {difference:18.1e} {loop:8.2f} {stack:10.2f} {loop / stack:6.1f}x")


def main() -> None:
    """All tables."""
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads of torch")
    compare("ResNet-50", slow_repeats=3)
    compare("ViT-B/16")
    for title in NETWORKS:
        compare_memory(title)
    compare_sweeps()


if __name__ == "__main__":
    main()
