"""Any model is read: what is tried before masks are decided, and what a reader teaches."""

import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402
from nnopt_lib.models.channels import half_of, read_channels, trouble  # noqa: E402
from nnopt_lib.structure.reading import TAUGHT  # noqa: E402


class Halved(nn.Module):
    """Its code divides by the number of channels, so that removing them changes what it gives."""

    def __init__(self, divide: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.divide = divide

    def forward(self, x):
        h = self.first(x).relu()
        h = h / h.shape[1] if self.divide else h
        return self.last(self.second(h).relu())


def test_a_size_that_code_computes_with_leaves_its_layer_whole():
    x = torch.randn(3, 4)
    read = read_channels(Halved(False), x).channels
    assert set(read.layers) == {"first", "second"} and list(read.whole) == ["last"]
    read = read_channels(Halved(True), x).channels
    assert set(read.layers) == {"second"} and set(read.whole) == {"first", "last"}
    assert read.whole["first"] == (
        "the model cannot do with fewer of its channels (its outputs are others than those of the masked model)"
    )


def test_trouble_names_what_is_wrong_and_nothing_else():
    torch.manual_seed(0)
    model, x = Halved(False), torch.randn(3, 4)
    read = read_channels(model, x)
    kept = half_of(read.channels, read.channels.groups["first"])
    assert trouble(model, read, kept) is None
    model.divide = True  # behind the reader's back
    assert trouble(model, read, kept) == "its outputs are others than those of the masked model"


def test_half_of_each_group_leaves_and_never_a_layers_last():
    channels = read_channels(Halved(False), torch.randn(3, 4)).channels
    every = half_of(channels, channels.groups["first"])
    assert (~every[channels.groups["first"]]).sum() == 4 and every[channels.groups["second"]].all()
    narrow = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
    with pytest.raises(NnoptError) as error:
        nnopt.prune(narrow, sparsity=1.5, granularity="node", example_input=torch.randn(1, 4))
    assert "sparsity must be at least 0 and below 1" in str(error.value)
    masks = nnopt.prune(narrow, sparsity=0.9, granularity="node", example_input=torch.randn(1, 4))
    assert masks.removed == 0


class Bend(nn.Module):
    def forward(self, x):
        return torch.special.i1(x)


@pytest.fixture
def forgotten():
    yield
    TAUGHT.clear()


def bent() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), Bend(), nn.Linear(8, 2))


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("op", [Bend, torch.special.i1])
def test_an_operation_is_taught_by_its_class_or_function(op):
    x = torch.randn(3, 4)
    with pytest.raises(NnoptError, match="for which there is no rule in Bend"):
        nnopt.prune(bent(), sparsity=0.5, granularity="node", example_input=x)
    nnopt.channel_rule(op, "elementwise", at_zero=0.0)
    model = bent()
    small = nnopt.remove_nodes(
        model, nnopt.prune(model, sparsity=0.5, granularity="node", example_input=x), example_input=x
    )
    assert small[0].out_features == 4
    torch.testing.assert_close(small(x), model(x))


class Mixed(nn.Module):
    """No number by itself: what it makes of one channel depends on all."""

    def forward(self, x):
        return torch.special.i1(x) - x.sum(1, keepdim=True) / x.shape[1]


@pytest.mark.usefixtures("forgotten")
def test_a_wrong_rule_is_noticed_and_what_it_concerns_stays_whole():
    nnopt.channel_rule(Mixed, "elementwise")
    model = nn.Sequential(nn.Linear(4, 8), Mixed(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=torch.randn(3, 4))
    assert list(masks) == ["2"] and "its outputs are others" in masks.whole["0"]


@pytest.mark.usefixtures("forgotten")
def test_rules_that_cannot_be_are_refused():
    with pytest.raises(NnoptError) as error:
        nnopt.channel_rule(Bend, "elementwize")
    assert "elementwise" in str(error.value) and TAUGHT == {}
    with pytest.raises(NnoptError) as error:
        nnopt.channel_rule([], "moved")
    assert str(error.value) == "an operation to teach must be a function or a class; received list."
