"""Pruning nodes beside Torch-Pruning: equal networks first, then seconds, latency, and what each can prune.

    PYTHONPATH=. python tests/benchmarks/nodes.py

Same networks, same criterion (the sum of |w| over the kernel rows of a coupled group), same ratio of one half
in each group of layers, on both sides. First the channels that are left, bit by bit, MACs and outputs. Then
seconds of describing the network, of grouping its nodes, of scoring them and of removing them, on ResNets of
20, 56, 110 and 500 layers, ResNet-50 and ViT-B at 224, in turns in this process, and of the two calls as a
whole, with a line MET or MISSED for each bar. Then measured latency of the dense network and of both small
ones, in turns. The last tables try architectures, operations and the networks of tests/zoo on both sides
and say what came of it: outputs are compared with those of the same network with the same nodes masked.
"""

from __future__ import annotations

import copy
import functools
import gc
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
import torch_pruning as tp
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib import measure
from nnopt_lib.backends.torch import reading as torch_reading
from nnopt_lib.models import channels as channels_of_models
from nnopt_lib.pruning import removal as surgery
from nnopt_lib.pruning.importance import by_weights, keep_nodes
from tests.torch_architectures import TORCH, ResNet, drawn
from tests.zoo import ZOO, tensors
from tests.zoo import call as called
from tests.zoo import drawn as drawn_from_zoo

LAYERS = (20, 56, 110, 500)  # of ResNets for CIFAR


class SumOfRows(tp.importance.Importance):
    """Our "l1" for Torch-Pruning: its own takes the mean over a group's layers, normalizations included."""

    def __call__(self, group: Any, **_: Any) -> torch.Tensor:
        """One number for each node of the group's first layer."""
        total = torch.zeros(1 + max(group[0].idxs))
        for item in group:
            layer = item.dep.target.module
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and "out_channels" in item.dep.handler.__name__:
                rows = layer.weight.detach().flatten(1).abs().sum(1)
                total.index_add_(0, torch.tensor(item.root_idxs), rows[item.idxs])
        return total


def pruner_of(model: nn.Module, x: torch.Tensor, importance: Any = None, **options: Any) -> Any:
    """Torch-Pruning's pruner, the network's last layer left out, as ours leaves its outputs out."""
    options = {"pruning_ratio": 0.5, "ignored_layers": [last_layer(model)]} | options
    return tp.pruner.MagnitudePruner(model, x, importance or SumOfRows(), **options)


def last_layer(model: nn.Module) -> nn.Module:
    """The one that makes the outputs."""
    return [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))][-1]


def prune_ours(model: nn.Module, x: Any) -> nn.Module:
    """Our two lines; `model` is left with its masked nodes."""
    return nnopt.remove_nodes(model, masks_of(model, x), example_input=x)


def prune_by_torch_pruning(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The same by Torch-Pruning, on a copy, since it prunes in place."""
    model = copy.deepcopy(model)
    pruner_of(model, x, num_heads=heads_of(model)).step()
    return model


# ---------------------------------------------------------------- equal networks


def compare_networks() -> None:
    """One row for each architecture: channels, MACs by both counters, outputs."""
    print("\nsame criterion, same ratio: what is left")
    print(f"{'':>28} {'layers alike':>12} {'same channels':>13} {'MACs':>9} {'theirs':>9}", end="")
    print(f" {'(their counter)':>15} {'outputs differ by':>17}")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, make in {**TORCH, "resnet of 56 layers": lambda: ResNet(9)}.items():
        model = drawn(make()).eval()
        rival, ours = prune_by_torch_pruning(model, x), prune_ours(model, x)
        pairs = [
            (a, b)
            for a, b in zip(ours.modules(), rival.modules(), strict=True)
            if isinstance(a, (nn.Conv2d, nn.Linear))
        ]
        alike = sum(a.weight.shape == b.weight.shape for a, b in pairs)
        same = sum(torch.equal(a.weight, b.weight) for a, b in pairs)
        macs = [measure.count(nnopt.describe(small, x)).macs for small in (ours, rival)]
        counted = tp.utils.count_ops_and_params(rival, x[:1])[0]
        with torch.no_grad():
            difference = (ours.eval()(x) - rival.eval()(x)).abs().max().item()
        print(f"{name:>28} {alike:>5} of {len(pairs):<3} {same:>6} of {len(pairs):<3}", end="")
        print(f" {macs[0]:>9,} {macs[1]:>9,} {int(counted):>15,} {difference:>17.1e}")
        if "resnet" in name and (same < len(pairs) or macs[0] != macs[1] or difference > 1e-5):
            raise SystemExit(f"{name}: the two sides do not agree; timing them would mean nothing")
    print("MACs by our counter: kernels only. Theirs adds biases, 2 for each normalized number, ReLU and")
    print("pooling layers (not functions). Where odd numbers are halved, ours removes round(n / 2), half to")
    print("even, theirs n - int(n / 2): of the DenseNet's 9 transition filters 5 stay here and 4 there.")


# ---------------------------------------------------------------- seconds


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and its result; without the garbage collector, as timeit has it."""
    gc.disable()
    begin = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begin
    gc.enable()
    return seconds, result


def time_ours(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """Seconds of each step, by the functions that `prune` and `remove_nodes` call, and of the two calls."""
    t = {}
    t["description"], reading = seconds_of(lambda: torch_reading.read(model, x))
    t["grouping"], channels = seconds_of(lambda: reading.channels("node"))
    t["trial"], channels = seconds_of(lambda: channels_of_models._tried(model, reading, "node"))
    t["scoring"], scores = seconds_of(lambda: by_weights(model, channels, "l1", 0))
    kept = keep_nodes(channels, scores, sparsity=0.5, scope="layer")
    read = channels_of_models.ReadModel(channels, reading)
    t["removal"], _ = seconds_of(lambda: surgery.cut_model(model, read, kept, False, compare=False))
    t["removal, compared"], _ = seconds_of(lambda: surgery.cut_model(model, read, kept, False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    t["prune"], masks = seconds_of(lambda: masks_of(model, x))
    model.load_state_dict(before)  # `prune` sets weights to 0
    t["remove_nodes"], _ = seconds_of(lambda: nnopt.remove_nodes(model, masks, example_input=x))
    t["both calls"] = t["prune"] + t["remove_nodes"]
    return t


def masks_of(model: nn.Module, x: Any) -> Any:
    """Of half of each group's nodes."""
    return nnopt.prune(model, sparsity=0.5, granularity="node", score="l1", scope="layer", example_input=x)


def time_torch_pruning(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """The same steps by theirs, which prune in place; a copy made first leaves the model as ours does."""
    t = {}
    graph, last = tp.DependencyGraph(), last_layer(model)
    t["description"], _ = seconds_of(lambda: graph.build_dependency(model, x))
    t["grouping"], groups = seconds_of(lambda: list(graph.get_all_groups(ignored_layers=[last])))
    importance = SumOfRows()
    t["scoring"], _ = seconds_of(lambda: [importance(group) for group in groups])
    copied, copy_of_model = seconds_of(lambda: copy.deepcopy(model))
    heads = heads_of(copy_of_model)
    made, pruner = seconds_of(lambda: pruner_of(copy_of_model, x, num_heads=heads))
    chosen, groups = seconds_of(lambda: list(pruner.step(interactive=True)))
    t["in place"], _ = seconds_of(lambda: [group.prune() for group in groups])
    t["removal"] = copied + t["in place"]
    t["both calls"] = copied + made + chosen + t["in place"]
    return t


def heads_of(model: nn.Module) -> dict[nn.Module, int]:
    """What theirs must be told of attention."""
    return {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}


def check_equal(name: str, model: nn.Module, x: torch.Tensor) -> None:
    """Both sides must leave the same kernels, or their seconds mean nothing."""
    rival, ours = prune_by_torch_pruning(model, x), prune_ours(copy.deepcopy(model), x)
    pairs = zip(ours.modules(), rival.modules(), strict=True)
    kernels = [(a.weight, b.weight) for a, b in pairs if isinstance(a, (nn.Conv2d, nn.Linear))]
    same = sum(torch.equal(a, b) for a, b in kernels)
    print(f"{name}: {same} of {len(kernels)} kernels equal, bit by bit")
    if same < len(kernels):
        raise SystemExit(f"{name}: the two sides do not agree; timing them would mean nothing")


STEPS = ("description", "grouping", "scoring", "removal")
OURS_ALONE = ("trial", "removal, compared", "prune", "remove_nodes")


def timed_networks() -> dict[str, tuple[Callable[[], nn.Module], int, int]]:
    """What makes each network, the size of its image, how many turns."""
    resnets = {
        f"resnet-{n}": (functools.partial(ResNet, (n - 2) // 6, 8), 32, 7 if n > 110 else 15) for n in LAYERS
    }
    large = {"resnet-50 at 224": "resnet-50", "vit-b at 224": "vit-b/16"}
    return {**resnets, **{name: (ZOO[of].make, 224, 5) for name, of in large.items()}}


def compare_seconds() -> None:
    """Medians of turns, step by step and as a whole; a line for each bar; growth over that of layers."""
    print("\nmilliseconds, one image (medians of turns): ours, theirs, theirs / ours")
    medians: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    missed: list[str] = []
    shown = (*STEPS, "both calls")
    for name, (make, size, turns) in timed_networks().items():
        torch.manual_seed(0)
        model, x = make().eval(), torch.randn(1, 3, size, size)
        check_equal(name, drawn(make()).eval(), x)
        taken = [(time_ours(model, x), time_torch_pruning(model, x)) for _ in range(turns + 1)][1:]
        own, other = (
            {step: 1e3 * float(np.median([turn[side][step] for turn in taken])) for step in taken[0][side]}
            for side in (0, 1)
        )
        medians[name] = own, other
        for step in shown:
            ratio = other[step] / own[step]
            bar = "MET" if ratio >= 1 else "MISSED"
            missed += [f"{name}, {step} ({ratio:.2f})"] * (ratio < 1)
            print(f"{name:>17} {step:>18} {own[step]:8.1f} {other[step]:8.1f} {ratio:6.2f}x {bar}")
        alone = ", ".join(f"{step} {own[step]:.1f}" for step in OURS_ALONE)
        print(f"{name:>17} ours alone: {alone}; theirs in place {other['in place']:.1f}")
    print(f"at least as fast in every cell: {'MISSED in ' + '; '.join(missed) if missed else 'MET'}")
    first = f"resnet-{LAYERS[0]}"
    print(f"growth of seconds from {first} on, over that of layers (1: linear): ours / theirs; bar 1.25")
    for layers in LAYERS[1:]:
        growth = [
            [
                medians[f"resnet-{layers}"][side][s] / medians[first][side][s] * LAYERS[0] / layers
                for s in shown
            ]
            for side in (0, 1)
        ]
        cells = [f"{s} {a:.2f} / {b:.2f}" for s, a, b in zip(shown, *growth, strict=True)]
        print(f"{layers:>6} {', '.join(cells)}: {'MET' if max(growth[0]) <= 1.25 else 'MISSED'}")
    print(
        "description: one recorded run and its rules; theirs build_dependency. removal: a smaller copy; theirs"
    )
    print(
        "copy.deepcopy and group.prune(). compared: with both models run beside each other, which theirs does"
    )
    print(
        "not do. both calls: prune (with its trial) and remove_nodes (which reads again and compares); theirs"
    )
    print("a copy, the pruner, its step.")


def compare_latency(blocks: int = 9, width: int = 16) -> None:
    """Batch 32 of 3 x 32 x 32: the dense network, ours, theirs, in turns; ratios place by place."""
    x = torch.randn(32, 3, 32, 32)
    model = drawn(ResNet(blocks, width)).eval()
    dense = copy.deepcopy(model)
    models = {
        "dense": dense,
        "theirs": prune_by_torch_pruning(model, x[:2]),
        "ours": prune_ours(model, x[:2]),
    }
    macs = {name: measure.count(nnopt.describe(one, x)).macs for name, one in models.items()}
    runs = {name: nnopt.runner(one, x.numpy()) for name, one in models.items()}
    seconds = measure.time_in_turns(runs, repeats=15, warmup=2)
    print(
        f"\nlatency of a ResNet of {6 * blocks + 2} layers, width {width}, batch 32 of 3 x 32 x 32 (median of 15)"
    )
    speed = {}
    for name in models:
        speed[name], low, high = measure.interval(seconds["dense"] / seconds[name], statistic=np.median)
        print(f"{name:>6} {macs[name]:>12,} MACs ({macs['dense'] / macs[name]:.2f} times fewer)", end="")
        print(
            f" {1e3 * np.median(seconds[name]):7.1f} ms, dense / it {speed[name]:.2f} [{low:.2f}, {high:.2f}]"
        )
    ratio = speed["ours"] / speed["theirs"]
    print(f"ours / theirs {ratio:.2f}, must be at least 0.9: {'met' if ratio >= 0.9 else 'MISSED'}")


# ---------------------------------------------------------------- what each can prune


class Chain(nn.Module):
    """Layers by name and a forward that reads them."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor], **layers: Any) -> None:
        super().__init__()
        self.calls = forward
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` was given as."""
        return self.head(self.calls(self, x))


def after_conv(**layers: Any) -> nn.Module:
    """Convolution, the given layers in a row, ReLU, mean over space, dense."""
    names = list(layers)

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.conv(x)
        for name in names:
            x = getattr(m, name)(x)
        return F.relu(x).mean((2, 3))

    return Chain(forward, conv=nn.Conv2d(3, 16, 3, padding=1), **layers)


def tokens(m: Any, x: torch.Tensor) -> torch.Tensor:
    """(batch, 16 places, 16 features) of a convolution."""
    return m.conv(x).flatten(2).transpose(1, 2)


def transformer(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A block of a vision transformer: attention and a dense pair, each behind a normalization."""
    x = tokens(m, x)
    y = m.norm1(x)
    x = x + m.attention(y, y, y, need_weights=False)[0]
    x = x + m.fc2(F.gelu(m.fc1(m.norm2(x))))
    return x.mean(1)


PATCHES = {"conv": lambda: nn.Conv2d(3, 16, 4, 4)}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "MLP with a shortcut": lambda: Chain(
        lambda m, x: (lambda y: y + F.relu(m.fc2(y)))(F.relu(m.fc1(x.flatten(1)))),
        fc1=nn.Linear(768, 16),
        fc2=nn.Linear(16, 16),
    ),
    "grouped convolution": lambda: after_conv(group=nn.Conv2d(16, 16, 3, padding=1, groups=4)),
    "attention alone": lambda: Chain(
        lambda m, x: (lambda y: m.attention(y, y, y, need_weights=False)[0].mean(1))(tokens(m, x)),
        conv=PATCHES["conv"](),
        attention=nn.MultiheadAttention(16, 4, batch_first=True),
    ),
    "ViT block": lambda: Chain(
        transformer,
        conv=PATCHES["conv"](),
        norm1=nn.LayerNorm(16),
        norm2=nn.LayerNorm(16),
        attention=nn.MultiheadAttention(16, 4, batch_first=True),
        fc1=nn.Linear(16, 32),
        fc2=nn.Linear(32, 16),
    ),
    "LSTM": lambda: Chain(
        lambda m, x: m.lstm(tokens(m, x))[0][:, -1],
        conv=PATCHES["conv"](),
        lstm=nn.LSTM(16, 16, batch_first=True),
    ),
    "ConvTranspose2d": lambda: after_conv(up=nn.ConvTranspose2d(16, 16, 2, 2)),
    "LayerNorm": lambda: Chain(
        lambda m, x: F.relu(m.norm(m.fc(x.flatten(1)))), fc=nn.Linear(768, 16), norm=nn.LayerNorm(16)
    ),
    "GroupNorm": lambda: after_conv(norm=nn.GroupNorm(4, 16)),
    "Embedding": lambda: Chain(
        lambda m, x: F.relu(m.fc(m.words(x).mean(1))), words=nn.Embedding(20, 16), fc=nn.Linear(16, 16)
    ),
    "PReLU": lambda: after_conv(act=nn.PReLU(16)),
    "an unbound parameter": lambda: Chain(
        lambda m, x: F.relu(m.conv(x) * m.scale).mean((2, 3)),
        conv=nn.Conv2d(3, 16, 3),
        scale=nn.Parameter(torch.ones(16, 1, 1)),
    ),
}


def verdict(expected: Any, given: Any, fewer: float) -> str:
    """Equal to the masked model's or not."""
    difference = float(np.abs(np.asarray(expected) - np.asarray(given)).max())
    if difference <= 1e-5 * max(1.0, float(np.abs(np.asarray(expected)).max())):
        return f"yes, {fewer:.0%} of parameters left, outputs differ by {difference:.0e}"
    return f"yes, {fewer:.0%} left, OUTPUTS DIFFER by {difference:.0e}"


def first_words(error: BaseException) -> str:
    """A refusal's or exception's beginning."""
    text = " ".join(str(error).split())
    text = text.partition("received ")[2] or text
    kind = "refused" if isinstance(error, nnopt.checks.NnoptError) else type(error).__name__
    return f"no ({kind}): {text[:52]}"


def parameters(model: nn.Module) -> int:
    """How many."""
    return sum(p.numel() for p in model.parameters())


def try_ours(model: nn.Module, x: torch.Tensor) -> str:
    """Prune, remove, compare with the masked model."""
    before = parameters(model)
    try:
        small = prune_ours(model, x)
        with torch.no_grad():
            return verdict(model.eval()(x), small.eval()(x), parameters(small) / before)
    except Exception as error:  # any of them is what the table is to show
        return first_words(error)


def mask_rows(layer: Any, gone: list[int]) -> None:
    """What removing these output channels means as zeros."""
    each = {nn.LSTM: 4, nn.MultiheadAttention: 3}.get(type(layer), 1)
    for name, tensor in layer.named_parameters():
        if isinstance(layer, (nn.ConvTranspose2d, nn.Embedding)) and tensor.dim() > 1:
            tensor[:, gone] = 0
        elif each > 1 and not name.startswith("out_proj"):
            for part in range(each):
                tensor[[part * len(tensor) // each + place for place in gone]] = 0
        elif not isinstance(layer, nn.PReLU):
            tensor[gone] = 0


def cut_beside_masked(model: nn.Module, masked: nn.Module, x: Any) -> None:
    """Theirs cuts `model`; in its copy `masked` what each group removed is set to 0."""
    twins = dict(zip(model.modules(), masked.modules(), strict=True))
    left: dict[Any, np.ndarray] = {}  # where a layer's channels stood at first
    pruner = pruner_of(model, x, num_heads=heads_of(model))
    for group in pruner.step(interactive=True):
        gone = []
        for dep, channels in group:
            layer = dep.target.module
            if layer in twins and "out_channels" in dep.handler.__name__:
                total = pruner.DG.get_out_channels(layer)
                indices = left.setdefault(layer, np.arange(total or 0))
                gone.append((layer, indices[channels].tolist()))
                left[layer] = np.delete(indices, channels)
        group.prune()
        with torch.no_grad():
            for layer, channels in gone:
                mask_rows(twins[layer], channels)


def try_torch_pruning(model: nn.Module, x: torch.Tensor) -> str:
    """The same by Torch-Pruning; the masked model is a copy with what each group removed set to 0."""
    before, masked = parameters(model), copy.deepcopy(model)
    try:
        cut_beside_masked(model, masked, x)
        if parameters(model) == before:
            return "no: nothing was removed"
        with torch.no_grad():
            return verdict(masked.eval()(x), model.eval()(x), parameters(model) / before)
    except Exception as error:  # any of them is what the table is to show
        return first_words(error)


def try_keras() -> str:
    """A Keras functional model through our two lines."""
    from tests.keras_architectures import KERAS
    from tests.keras_architectures import drawn as drawn_keras

    model = drawn_keras(KERAS["resnet, basic"]())
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3), np.float32)
    before = model.count_params()
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", scope="layer")
    small = nnopt.remove_nodes(model, masks)
    return verdict(model(x), small(x), small.count_params() / before)


def compare_reach() -> None:
    """One row for each architecture or operation."""
    print("\nwhat each can prune (one half of each group; outputs against the same network, masked)")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, make in {**TORCH, **OTHERS}.items():
        example = torch.arange(12).reshape(2, 6) if name == "Embedding" else x
        models = [drawn(make()).eval() for _ in range(2)]
        print(f"{name:>28} | {try_ours(models[0], example):<62} | {try_torch_pruning(models[1], example)}")
    print(f"{'a Keras functional model':>28} | {try_keras():<62} | no: it reads PyTorch modules")


def largest_difference(expected: Any, given: Any) -> float:
    """Beside the largest number of the first; over all outputs."""
    pairs = list(zip(tensors(expected), tensors(given), strict=True))
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def zoo_ours(model: nn.Module, x: Any) -> tuple[float, float]:
    """The share of parameters that left, and the difference from the masked network."""
    before, small = parameters(model), prune_ours(model, x)
    with torch.no_grad():
        return 1 - parameters(small) / before, largest_difference(called(model, x), called(small.eval(), x))


def zoo_torch_pruning(model: nn.Module, x: Any) -> tuple[float, float]:
    """The same by theirs; nothing in it is masked, so rows of what each group removes are set to 0 in a copy."""
    before, masked = parameters(model), copy.deepcopy(model)
    cut_beside_masked(model, masked, x)
    with torch.no_grad():
        called(model.eval(), x)
        if parameters(model) == before:
            raise ValueError("nothing was removed")
        return 1 - parameters(model) / before, largest_difference(called(masked, x), called(model, x))


def compare_zoo() -> None:
    """One row for each network of tests/zoo: share of parameters that left, difference from the masked one."""
    print(
        "\nnetworks of tests/zoo, half of each group: parameters removed, largest difference from the masked"
    )
    counts = {"ours": 0, "theirs": 0}
    sides = {"ours": zoo_ours, "theirs": zoo_torch_pruning}
    nodes = {name: entry for name, entry in ZOO.items() if "node" in entry.granularities}
    for name, entry in nodes.items():
        cells = []
        for side, run in sides.items():
            model, x = drawn_from_zoo(entry)
            try:
                share, difference = run(model, x)
                counts[side] += difference <= 1e-5
                cells.append(f"{share:4.0%} {difference:.0e}{'' if difference <= 1e-5 else ' DIFFERS'}")
            except Exception as error:  # any of them is what the table is to show
                cells.append(first_words(error))
            del model
        print(f"{name:>22} | {cells[0]:<40} | {cells[1]}", flush=True)
    bar = "MET" if counts["ours"] == len(nodes) else "MISSED"
    print(
        f"equal to the masked network to 1e-5: ours {counts['ours']}, theirs {counts['theirs']} of {len(nodes)}"
    )
    print(f"every network of the zoo, to 1e-5: {bar}")


def main() -> None:
    """All tables."""
    warnings.simplefilter("ignore")  # of theirs, on every parameter outside a layer
    print(f"torch {torch.__version__}, Torch-Pruning {tp.__version__}, {torch.get_num_threads()} threads")
    compare_networks()
    compare_seconds()
    compare_latency()
    compare_reach()
    compare_zoo()


if __name__ == "__main__":
    main()
