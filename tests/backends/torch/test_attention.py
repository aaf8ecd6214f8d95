"""Attention heads of torch.nn: removed equals masked, and what is left is called as before."""

import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402


class Reader(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(24), nn.MultiheadAttention(24, 6, **options)
        self.out = nn.Linear(24, 3)

    def forward(self, x, memory, need_weights: bool = False, **masks):
        x = self.norm(x)
        y, weights = self.attend(x, memory, memory, need_weights=need_weights, **masks)
        return self.out(x + y), weights


def halved(model, example):
    masks = nnopt.prune(model, sparsity=0.5, granularity="head", example_input=example)
    assert (masks.size, masks.removed) == (6, 3)
    return nnopt.remove_nodes(model, masks, example_input=example)


@pytest.mark.parametrize("first", [True, False], ids=["batch first", "batch second"])
@pytest.mark.parametrize(
    "options", [{}, {"kdim": 10, "vdim": 10}, {"bias": False}], ids=["plain", "kv", "no bias"]
)
def test_half_of_the_heads_leave(options, first):
    torch.manual_seed(0)
    width = options.get("kdim", 24)
    model = Reader(batch_first=first, **options).eval()
    x, memory = torch.randn(2, 5, 24), torch.randn(2, 7, width)
    x, memory = (x, memory) if first else (x.transpose(0, 1), memory.transpose(0, 1))
    small = halved(model, {"x": x, "memory": memory})
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[:, -2:] = True
    causal = torch.ones(5, 7).tril().log()
    for given in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal},
        {"attn_mask": causal.isinf(), "key_padding_mask": padding},
    ):
        torch.testing.assert_close(small(x, memory, **given)[0], model(x, memory, **given)[0])
    weights = small(x, memory, need_weights=True)[1]
    assert weights.shape == (2, 5, 7)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 5))
    small.train()(x, memory)[0].sum().backward()


def test_a_masked_head_is_what_leaves():
    torch.manual_seed(0)
    model, x = Reader(batch_first=True).eval(), torch.randn(2, 5, 24)
    masks = nnopt.prune(model, sparsity=0.5, granularity="head", example_input=(x, x))
    gone = [head for head, stays in enumerate(masks["attend"]) if not stays]
    rows = model.attend.in_proj_weight.view(3, 6, 4, 24)
    assert not rows[:, gone].any() and rows.flatten(2).any(2).sum() == 3 * 3
    by_head = nnopt.importance(Reader(batch_first=True), "l1", x=(x, x), granularity="head")["attend"]
    assert by_head.shape == (6,)


def test_layers_of_transformers_go_on_without_half_of_their_heads():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 6, 32, batch_first=True), 2).eval()
    x = torch.randn(2, 5, 24)
    masks = nnopt.prune(encoder, sparsity=0.5, granularity="head", scope="layer", example_input=x)
    assert masks.size == 12
    small = nnopt.remove_nodes(encoder, masks, example_input=x)
    torch.testing.assert_close(small(x), encoder(x), rtol=1e-4, atol=1e-5)
    again = nnopt.prune(small, sparsity=0.5, granularity="head", scope="layer", example_input=x)
    assert again.size == 6
    twice = nnopt.remove_nodes(small, again, example_input=x)
    torch.testing.assert_close(twice(x), small(x), rtol=1e-4, atol=1e-5)
