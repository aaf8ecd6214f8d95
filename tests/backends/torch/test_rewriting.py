"""Attention whose code derives a head's size from a width that stays: it is traced, and its sizes replaced."""

import pytest

pytestmark = pytest.mark.torch

import io  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402


class Split(nn.Module):
    """Query, key and value cut off one product by a width; heads by what is left of it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.together, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.width, self.dropout = heads, width, nn.Dropout(0.1)

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.together(x).split(self.width, dim=2)
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.dropout(self.out(y.transpose(1, 2).reshape(b, t, c)))


class Stacked(nn.Module):
    """All three at once, an optional mask, and one axis for which of the three."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.bias = nn.Parameter(torch.randn(heads, 1, 1))

    def forward(self, x, mask=None):
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q / (c // self.heads) ** 0.5) @ k.transpose(-2, -1) + self.bias
        if mask is not None:
            scores = scores.masked_fill(mask, -1e9)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))


class OfTraining(Split):
    """Its code does otherwise in training, which one trace cannot say."""

    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


class Reader(nn.Module):
    def __init__(self, kind: type, mask: bool = False) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(11, 24), nn.LayerNorm(24)
        self.attend, self.answer, self.mask = kind(24, 4), nn.Linear(24, 3), mask

    def forward(self, words):
        x = self.words(words)
        given = {"mask": words[:, None, None, :] == 0} if self.mask else {}
        return self.answer(x + self.attend(self.norm(x), **given))


def halved(model: nn.Module, words: torch.Tensor) -> tuple[nn.Module, nnopt.NodeMasks]:
    masks = nnopt.prune(model, sparsity=0.5, granularity="head", example_input=words)
    return nnopt.remove_nodes(model, masks, example_input=words), masks


@pytest.mark.parametrize("options", [(Split,), (Stacked,), (Stacked, True)], ids=["split", "stacked", "mask"])
def test_heads_leave_code_that_derives_their_size(options):
    torch.manual_seed(0)
    model = Reader(*options).eval()
    words = torch.randint(0, 11, (3, 7))
    small, masks = halved(model, words)
    assert (masks.size, masks.removed) == (4, 2)
    other = torch.randint(0, 11, (5, 19))  # the sizes of batch and sentence stay open
    torch.testing.assert_close(small(other), model(other), rtol=1e-5, atol=1e-5)
    assert small.attend.out.in_features == 12
    small.train()(other).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    twice, again = halved(small.eval(), words)  # what was traced is read as anything else
    assert again.size == 2 and twice.attend.out.in_features == 6
    torch.testing.assert_close(twice(other), small(other), rtol=1e-5, atol=1e-5)


def test_what_was_traced_is_saved_whole_and_as_a_recipe(tmp_path):
    torch.manual_seed(0)
    model, words = Reader(Split).eval(), torch.randint(0, 11, (3, 7))
    small, _ = halved(model, words)
    stream = io.BytesIO()
    torch.save(small, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False)(words), small(words))
    nnopt.save_small(small, tmp_path / "small.safetensors")
    loaded = nnopt.load_small(tmp_path / "small.safetensors", model=Reader(Split), example_input=words)
    assert torch.equal(loaded.eval()(words), small(words))


def test_code_that_does_otherwise_in_training_stays_whole_by_name():
    torch.manual_seed(0)
    with pytest.raises(nnopt.NnoptError) as error:
        halved(Reader(OfTraining).eval(), torch.randint(0, 11, (3, 7)))
    assert "in OfTraining cannot do with fewer channels" in str(error.value)
