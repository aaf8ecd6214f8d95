"""Half of the nodes of every network in the zoo are removed; what is left gives the masked model's outputs."""

import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from tests.zoo import ZOO, call, drawn, parameter_count, tensors  # noqa: E402

COUNT = 2  # examples in a batch


def outputs(model, batch):
    with torch.no_grad():
        return [output.clone() for output in tensors(call(model, batch))]


def macs(model, batch):
    """For one example. Torch counts neither fused attention nor fused recurrent layers, so none is fused here."""
    unfused = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
    with FlopCounterMode(display=False) as counter, unfused[0], unfused[1]:
        call(model, batch)  # with gradients, or encoder layers would be fused again
    return counter.get_total_flops() // 2 // COUNT


def check_it_trains(model, batch):
    """All gradients are finite, and not all are 0."""
    torch.manual_seed(0)  # of dropout
    results = tensors(call(model.train(), batch))
    sum(result.square().mean() for result in results if result.is_floating_point()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's, of switching its kernels off and on
@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if "node" in entry.granularities])
def test_half_of_the_nodes_are_removed(name, capsys):
    entry = ZOO[name]
    model, x = drawn(entry, count=COUNT)
    before = parameter_count(model), macs(model, x)
    full = outputs(model, x)
    masks = nnopt.prune(model, sparsity=0.5, scope="layer", granularity="node", example_input=x)
    small = nnopt.remove_nodes(model, masks, example_input=x)
    after = parameter_count(small), macs(small, x)
    with capsys.disabled():
        counts = ", ".join(
            f"{old:,} -> {new:,} {what}"
            for old, new, what in zip(before, after, ("parameters", "MACs"), strict=True)
        )
        print(f"\n{name}: {counts}; {len(masks.whole)} layers whole")

    masked = outputs(model, x)
    assert any(not torch.equal(old, new) for old, new in zip(full, masked, strict=True))
    for expected, given in zip(masked, outputs(small, x), strict=True):
        assert given.shape == expected.shape
        assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert type(small) is type(model)
    assert after[0] <= (1 - entry.loses) * before[0]
    assert after[0] < before[0] and after[1] < before[1]
    check_it_trains(small, x)
