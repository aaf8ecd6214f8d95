"""The adapters of both frameworks offer what `frameworks` states, each in a module of its own."""

import inspect

import pytest

from nnopt_lib import frameworks

PARTS = {
    "build": frameworks.Backend,
    "fit": frameworks.TrainingBackend,
    "masks": frameworks.MaskBackend,
    "penalties": frameworks.PenaltyBackend,
    "describe": frameworks.DescriptionBackend,
    "removal": frameworks.RemovalBackend,
}


def parameters(function: object) -> list[inspect._ParameterKind]:
    """How each parameter is passed; adapters name some of them otherwise."""
    return [one.kind for one in inspect.signature(function).parameters.values()]  # type: ignore[arg-type]


@pytest.mark.torch
@pytest.mark.keras
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("framework", frameworks.FRAMEWORKS)
def test_an_adapter_offers_what_is_stated(framework, part):
    module = frameworks._part(framework, part)
    stated = {
        name: one for name, one in vars(PARTS[part]).items() if inspect.isfunction(one) and name[0] != "_"
    }
    assert stated
    for name, one in stated.items():
        assert parameters(getattr(module, name)) == parameters(one)[1:], name


@pytest.mark.torch
def test_a_stack_offers_what_is_stated():
    stack = frameworks.stacks().Stack
    for name in ("weights", "predict", "evaluate"):
        assert inspect.signature(getattr(stack, name)) == inspect.signature(getattr(frameworks.Stack, name))
