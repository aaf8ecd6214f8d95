"""What a run of a module shows beside its graph."""

import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.backends.torch.test_describe import DENSE, END, RULE, Calls

pytestmark = pytest.mark.torch


OTHER = torch.ones(2, 5)


def test_what_happens_beside_the_graph_is_noticed():
    torch.manual_seed(0)  # one time in sixteen all four units are positive, and ReLU changes nothing

    def through_a_view(m, x):
        y = m.fc(x)
        y.view(y.size(0), -1).relu_()
        return m.out(y)

    hooked = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    hooked[1].register_forward_hook(lambda module, given, output: output * 2)
    for model, sentence in (
        (
            Calls(through_a_view, fc=nn.Linear(5, 4), out=nn.Linear(4, 2)),
            "the description of Calls must give its outputs; received one that does not.",
        ),
        (hooked, RULE + "'mul' with a number or a parameter" + END),
        (
            Calls(lambda m, x: m.fc(x) if x.max().item() else m.fc(-x), **DENSE),
            "Calls must compute the same whatever its data are, to be described; received numbers that leave their tensor by "
            "'item'. Keep branches on data out of it.",
        ),
        (
            Calls(lambda m, x: m.fc(torch.cat([x, OTHER], 1)), fc=nn.Linear(10, 2)),
            RULE + "a tensor that it did not make of its input" + END,
        ),
        (
            torch.compile(nn.Linear(5, 2), backend="eager"),
            "a model to describe must not be compiled; received OptimizedModule. "
            "Describe the module that was compiled; compile what remove_nodes gives.",
        ),
        (
            nn.Bilinear(2, 3, 4),
            "a model to describe must read one input; received a second one, 'input2'.",
        ),
    ):
        before = [dict(vars(module)) for module in model.modules()]
        with pytest.raises(NnoptError) as error:
            nnopt.describe(model, torch.randn(2, 5))
        assert str(error.value) == sentence
        assert [dict(vars(module)) for module in model.modules()] == before
