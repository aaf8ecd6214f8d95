"""Attention whose heads leave: removed equals masked, however it is written; the other heads are named."""

import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.backends.torch.attention import FewerHeads  # noqa: E402
from tests.torch_architectures import drawn  # noqa: E402
from tests.torch_reading import Net, assert_close, check, refused, run, tensors  # noqa: E402

TOKENS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
MEMORY = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
SQUARE = torch.ones(5, 5, dtype=torch.bool).triu(1)
PADDED = torch.zeros(3, 5, dtype=torch.bool)
PADDED[0, 3:] = True


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def attending(**options):
    return Net(
        lambda m, x, *rest, **more: m.attention(x, *(rest or (x, x)), **more),
        attention=nn.MultiheadAttention(8, 4, **options),
    )


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"need_weights": False},
        {"average_attn_weights": False, "need_weights": False},
        {"attn_mask": SQUARE},
        {"attn_mask": SQUARE * -3.0, "need_weights": False},
        {"key_padding_mask": PADDED},
        {"key_padding_mask": PADDED * -2.0, "attn_mask": SQUARE * -3.0},
        {"attn_mask": SQUARE, "is_causal": True, "need_weights": False},
    ],
    ids=["plain", "no weights", "each", "bool", "float", "padding", "both", "causal"],
)
def test_heads_of_multihead_attention(first, bias, more):
    x = TOKENS if first else TOKENS.transpose(0, 1)
    model = Net(
        lambda m, x: m.attention(x, x, x, **more)[0][..., :, :],
        attention=nn.MultiheadAttention(8, 4, bias=bias, batch_first=first),
    )
    drawn(model)
    example = x[:1] if first else x[:, :1]
    if "key_padding_mask" in more or not first:  # such a mask is for this batch: it is of the example's size
        example = (x,)
        model = Whole(model, more, first)
    masks = nnopt.prune(model, sparsity=0.5, granularity="head", score="random", example_input=example)
    (layer,) = masks
    assert layer.endswith("attention") and masks[layer].sum() == 2 and len(masks[layer]) == 4
    small = nnopt.remove_nodes(model, masks, example_input=example)
    with torch.no_grad():
        assert_close(run(model.eval(), (x,)), run(small.eval(), (x,)))
    left = [one for one in small.modules() if isinstance(one, FewerHeads)]
    assert [(one.num_heads, one.head_dim, one.embed_dim) for one in left] == [(2, 2, 8)]


class Whole(nn.Module):
    """Attention on a batch that is always the first axis, with masks cut to it."""

    def __init__(self, model, more, first):
        super().__init__()
        self.attention, self.more, self.first = model.attention, more, first

    def forward(self, x):
        batch = x.shape[0 if self.first else 1]
        more = {key: one[:batch] if key == "key_padding_mask" else one for key, one in self.more.items()}
        if not self.first and x.shape[0] != 5:
            x, more = x, {key: None for key in more if "mask" in key}
        return self.attention(x, x, x, **more)[0]


def test_keys_and_values_of_other_sizes():
    model = Net(
        lambda m, x, y: m.attention(x, y, y, need_weights=False)[0],
        attention=nn.MultiheadAttention(8, 4, kdim=6, vdim=6, batch_first=True),
    )
    small, masks = check(model, (TOKENS, MEMORY), gone="attention", granularity="head")
    assert small.attention.k_proj.weight.shape == (4, 6) and small.attention.q_proj.weight.shape == (4, 8)


def encoder(layer, **options):
    return layer(8, 4, 12, 0.0, batch_first=True, **options)


@pytest.mark.parametrize(
    "model",
    [
        encoder(nn.TransformerEncoderLayer),
        encoder(nn.TransformerEncoderLayer, norm_first=True, activation="gelu"),
        nn.TransformerEncoder(encoder(nn.TransformerEncoderLayer), 2, enable_nested_tensor=False),
        Net(lambda m, x: m.d(x, x), d=encoder(nn.TransformerDecoderLayer)),
        Net(lambda m, x: m.t(x, x), t=nn.Transformer(8, 2, 1, 1, 12, 0.0, batch_first=True)),
    ],
    ids=["encoder", "norm first", "two", "decoder", "both"],
)
def test_layers_of_torch(model):
    _, masks = check(model, TOKENS, granularity="head")
    names = [path for path, one in model.named_modules() if isinstance(one, nn.MultiheadAttention)]
    assert sorted(masks) == sorted(names) and not masks.whole
    _, masks = check(model, TOKENS, granularity="node")
    assert all(layer.endswith("linear1") for layer in masks)


# ------------------------------------------------------------ attention by hand


def split(m, x, size=2):
    return x.view(*x.shape[:2], -1, size).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).flatten(2)


def attend(q, k, v):
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def rotated(x):
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1) * 0.5 + x


def separate(m, x):
    q, k, v = (split(m, layer(x)) for layer in (m.q, m.k, m.v))
    return m.o(joined(attend(q, k, v)))


def fused_function(m, x):
    q, k, v = (split(m, layer(x)) for layer in (m.q, m.k, m.v))
    return m.o(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


def einsum(m, x):
    q, k, v = (layer(x).unflatten(-1, (-1, 2)) for layer in (m.q, m.k, m.v))
    weights = (torch.einsum("bihd,bjhd->bhij", q, k) / 2**0.5).softmax(-1)
    return m.o(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


def rotary(m, x):
    q, k, v = (split(m, layer(x)) for layer in (m.q, m.k, m.v))
    return m.o(joined(attend(rotated(q), rotated(k), v)))


def normed(m, x):
    q, k, v = (split(m, layer(x)) for layer in (m.q, m.k, m.v))
    return m.o(joined(attend(m.qn(q), m.kn(k), v)))


@pytest.mark.parametrize("body", [separate, fused_function, einsum, rotary, normed])
def test_heads_of_attention_by_hand(body):
    layers = {name: nn.Linear(8, 8) for name in "qkvo"}
    if body is normed:
        layers |= {"qn": nn.LayerNorm(2), "kn": nn.RMSNorm(2)}
    small, masks = check(Net(body, **layers), TOKENS, gone="q k v", granularity="head")
    assert masks.size == 4 and small.q.weight.shape == (4, 8) and small.o.weight.shape == (8, 4)
    assert (masks["q"].reshape(4, 2).all(1) == masks["v"].reshape(4, 2).any(1)).all()


def test_one_kernel_for_queries_keys_and_values():
    def body(m, x):
        q, k, v = m.qkv(x).unflatten(-1, (3, -1, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        return m.o(joined(attend(q, k, v)))

    small, masks = check(
        Net(body, qkv=nn.Linear(8, 24), o=nn.Linear(8, 8)), TOKENS, gone="qkv", granularity="head"
    )
    assert masks.size == 4 and small.qkv.out_features == 12


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("how", ["repeat", "enable_gqa"])
def test_keys_that_several_queries_share(groups, how):
    def body(m, x):
        q, k, v = split(m, m.q(x)), split(m, m.k(x)), split(m, m.v(x))
        if how == "repeat":
            k, v = (one.repeat_interleave(q.shape[1] // k.shape[1], 1) for one in (k, v))
            return m.o(joined(attend(q, k, v)))
        return m.o(joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))

    layers = {"q": nn.Linear(8, 8), "k": nn.Linear(8, 2 * groups), "v": nn.Linear(8, 2 * groups)}
    model = Net(body, **layers, o=nn.Linear(8, 8))
    if groups == 1 and how == "enable_gqa":  # one node, and a layer keeps its last
        masks = nnopt.prune(drawn(model), sparsity=0.5, granularity="head", example_input=TOKENS)
        assert masks.removed == 0
        return
    masks = nnopt.prune(
        drawn(model), sparsity=0.5, scope="layer", granularity="head", score="random", example_input=TOKENS
    )
    small = nnopt.remove_nodes(model, masks, example_input=TOKENS)
    assert_close(tensors(model(TOKENS)), tensors(small(TOKENS)))
    if groups == 2:
        assert masks.size == 2 and small.k.out_features == 2 and small.q.out_features == 4


# ------------------------------------------------------------ what else is asked of heads


def test_what_is_left_is_pruned_again():
    model = Net(separate, **{name: nn.Linear(8, 8) for name in "qkvo"})
    small, _ = check(model, TOKENS, granularity="head")
    smallest, _ = check(small, TOKENS, gone="q k v", granularity="head", draw=False)
    assert smallest.q.out_features == 2
    encoding = encoder(nn.TransformerEncoderLayer)
    small, _ = check(encoding, TOKENS, granularity="head")
    smaller, masks = check(small, TOKENS, granularity="head", draw=False)
    assert masks.size == 2 and smaller.self_attn.num_heads in (1, 2)


def test_importance_by_heads():
    model = drawn(Net(separate, **{name: nn.Linear(8, 8) for name in "qkvo"}))
    scores = nnopt.importance(model, "l1", TOKENS, granularity="head")
    assert set(scores) == set("qkv") and scores["q"].shape == (8,)
    expected = sum(getattr(model, name).weight.detach().abs().sum(1).reshape(4, 2).sum(1) for name in "qkv")
    torch.testing.assert_close(torch.as_tensor(scores["q"]).float().reshape(4, 2)[:, 0], expected)
    masks = nnopt.prune(model, sparsity=0.25, granularity="head", score=scores, example_input=TOKENS)
    assert int(expected.argmin()) == int((~masks["q"].reshape(4, 2)[:, 0]).argmax())


def test_heads_that_the_code_cannot_do_without_are_named():
    def body(m, x):
        q, k, v = (layer(x).view(-1, 5, 4, 2).transpose(1, 2) for layer in (m.q, m.k, m.v))
        return m.o(joined(attend(q, k, v)))

    said = refused(drawn(Net(body, **{name: nn.Linear(8, 8) for name in "qkvo"})), TOKENS, granularity="head")
    assert said.startswith(
        "a model to prune by heads needs attention with several heads; received none ('q': "
    )
    assert "'view' in Net cannot do with fewer channels (" in said


def test_attention_with_a_learned_key_keeps_its_heads():
    model = attending(add_bias_kv=True, batch_first=True)
    said = refused(drawn(model), TOKENS, granularity="head")
    assert "an attention whose heads stay: other than nn.MultiheadAttention with several heads" in said
