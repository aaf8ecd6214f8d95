"""The networks of the zoo are what they are called: their published sizes, and they run in both modes."""

import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402

from tests.zoo import ZOO, call, drawn, parameter_count, tensors  # noqa: E402


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.parameters])
def test_parameters_are_as_published(name):
    with torch.device("meta"):  # takes neither time nor memory
        model = ZOO[name].make()
    assert parameter_count(model) == ZOO[name].parameters


@pytest.mark.parametrize("name", ZOO)
def test_it_runs_in_both_modes_and_signals_reach_the_end(name):
    model, batch = drawn(ZOO[name])
    with torch.no_grad():
        trained = list(tensors(call(model.train(), batch)))
        outputs, again = (list(tensors(call(model.eval(), batch))) for _ in range(2))
    assert trained and outputs
    assert all(torch.isfinite(output).all() for output in (*trained, *outputs))
    for output, same in zip(outputs, again, strict=True):
        assert torch.equal(output, same) and len(output) == 2
        # What a network reads can be seen in what it answers, so a test of its outputs tests all of it.
        assert (output[0] - output[1]).abs().max() > 1e-2 * output.abs().max()
