"""Layers of models as arrays and back: what they read, groups by themselves, one after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning import layerwise
from nnopt_lib.pruning.layer_by_layer import equal_parts, moments, readable
from nnopt_lib.structure.spec import NetSpec, Node

METHODS = ("obc", "sparsegpt", "wanda")


def grouped():
    """A convolution in two groups, of which each reads its own half."""
    options = {"filters": 6, "kernel": 3, "padding": 1, "groups": 2, "bias": False}
    nodes = (Node("conv2d_1", "conv2d", "input", options), Node("squeeze", "global_pool", "conv2d_1"))
    return NetSpec((8, 5, 5), (*nodes, Node("out", "dense", "squeeze", {"units": 3})))


def images(count=40, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 8, 5, 5)).astype(np.float32)


def columns_of(x, group):
    """What each output of `grouped` reads, by torch's own unfolding."""
    import torch

    half = torch.as_tensor(x[:, 4 * group : 4 * group + 4])
    return torch.nn.functional.unfold(half, 3, padding=1).transpose(1, 2).reshape(-1, 36).double().numpy()


@pytest.mark.torch
@pytest.mark.parametrize("batch_size", [7, 100])
def test_moments_are_mean_products_of_what_is_read(batch_size):
    model, x = nnopt.build(grouped()), images()
    H = moments(model, "conv2d_1/kernel", x, batch_size)
    assert H.shape == (2, 36, 36)
    for group in range(2):
        rows = columns_of(x, group)
        np.testing.assert_allclose(H[group], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_groups_of_a_convolution_are_layers_by_themselves(method):
    model, x = nnopt.build(grouped()), images()
    kernel = nnopt.get_weights(model)["conv2d_1/kernel"].astype(np.float64)
    masks = nnopt.prune_one_shot(model, x, method=method, sparsity=0.5, names=["conv2d_1/kernel"])
    after = nnopt.get_weights(model)["conv2d_1/kernel"]
    amount = {"sparsity": 0.5} if method == "wanda" else {"count": 54}
    for group, half in enumerate((slice(0, 3), slice(3, 6))):
        rows = columns_of(x, group)
        W, H = kernel[half].reshape(3, 36), rows.T @ rows / len(rows)
        mask, new = getattr(layerwise, method)(W, H, **amount)
        assert np.array_equal(masks["conv2d_1/kernel"][half].reshape(3, 36), mask)
        np.testing.assert_allclose(after[half].reshape(3, 36), new, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_of_n_in_m_inputs_each_position_has_its_own(method):
    """Of a convolution's columns, which count inputs first, the inputs are put last for it, and back."""
    model, x = nnopt.build(grouped()), images()
    kernel = nnopt.get_weights(model)["conv2d_1/kernel"].astype(np.float64)
    masks = nnopt.prune_one_shot(model, x, method=method, granularity="2:4", names=["conv2d_1/kernel"])
    assert (masks["conv2d_1/kernel"].sum(1) == 2).all() and masks.sparsity == 0.5
    rows = columns_of(x, 1).reshape(-1, 4, 9).swapaxes(1, 2).reshape(-1, 36)
    W = kernel[3:].reshape(3, 4, 9).swapaxes(1, 2).reshape(3, 36)
    mask, new = getattr(layerwise, method)(W, rows.T @ rows / len(rows), n_m=(2, 4))
    back = lambda array: array.reshape(3, 9, 4).swapaxes(1, 2).reshape(3, 4, 3, 3)
    assert np.array_equal(masks["conv2d_1/kernel"][3:], back(mask))
    np.testing.assert_allclose(nnopt.get_weights(model)["conv2d_1/kernel"][3:], back(new), atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_is_pruned_by_what_it_reads_once_those_before_are(method):
    import torch

    model = nnopt.build(nnopt.mlp((7,), inputs=5, outputs=4))
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    W = nnopt.get_weights(model)["dense_2/kernel"].astype(np.float64)
    masks = nnopt.prune_one_shot(model, x, method=method, sparsity=0.5)
    # dense_1 stands pruned in the model now: what dense_2 read is what it reads.
    with torch.no_grad():
        rows = torch.relu(model.dense_1(torch.as_tensor(x))).double().numpy()
    amount = {"sparsity": 0.5} if method == "wanda" else {"count": 14}
    mask, new = getattr(layerwise, method)(W, rows.T @ rows / 60, **amount)
    assert np.array_equal(masks["dense_2/kernel"], mask)
    np.testing.assert_allclose(nnopt.get_weights(model)["dense_2/kernel"], new, atol=1e-5)
    alone = ((rows @ (W - W * mask).T) ** 2).mean() / ((rows @ W.T) ** 2).mean()
    after = ((rows @ (W - new).T) ** 2).mean() / ((rows @ W.T) ** 2).mean()
    assert masks.errors["dense_2"] == pytest.approx((alone, after), rel=1e-6)


@pytest.mark.torch
def test_what_cannot_be_put_as_columns_stays_whole_and_is_named():
    import torch
    from torch import nn

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(20, 6), nn.Linear(6, 4)

        def forward(self, words):
            return self.out(self.embedding(words).mean(1))

    torch.manual_seed(0)
    model, x = Words(), np.random.default_rng(0).integers(0, 20, (30, 5))
    before = model.embedding.weight.detach().clone()
    masks = nnopt.prune_one_shot(model, x, method="obc", sparsity=0.5)
    assert list(masks) == ["out/kernel"] and masks.removed == 12
    assert masks.whole == {"embedding": "an embedding reads indices"}
    assert repr(masks).endswith("1 array; 1 layer whole, see .whole)")
    assert torch.equal(model.embedding.weight, before)
    with pytest.raises(NnoptError) as error:
        readable(model, ["embedding/kernel"], x)
    assert str(error.value) == (
        "methods by layer need a layer whose kernel multiplies what it reads; received 'embedding': an embedding "
        "reads indices. Pass method='woodfisher', which reads gradients."
    )


@given(
    gone=st.lists(st.integers(0, 9), min_size=1, max_size=5), extra=st.integers(0, 20), share=st.floats(0, 1)
)
def test_groups_lose_alike_but_none_gets_back(gone, extra, share):
    size = 9 + extra
    count = sum(gone) + int(share * (size * len(gone) - sum(gone)))
    parts = equal_parts(count, gone, size)
    assert sum(parts) == count and all(g <= p <= size for g, p in zip(gone, parts, strict=True))
    raised = [part for part, before in zip(parts, gone, strict=True) if part > before]
    assert not raised or max(raised) - min(parts) <= 1  # who lost more than the others had before
