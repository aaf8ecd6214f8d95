import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib import measure
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.spec import NetSpec
from tests.networks import FAMILIES, arrays, parameter_count


def conv(width, read, kernel):
    """Parameters of a convolution without bias, over a signal, with its batch normalization."""
    return width * read * kernel + 2 * width


def counted(family: str) -> tuple[NetSpec, int]:
    """A small network of the family over (2, 20), and its parameters summed by hand from its definition."""
    shape = {"input_shape": (2, 20), "outputs": 3}
    if family == "vgg":
        parts = [conv(4, 2, 3), conv(4, 4, 3), conv(8, 4, 3), conv(8, 8, 3)]
        return nnopt.vgg(2, (4, 8), **shape), sum(parts) + 8 * 3 + 3
    if family == "inception":  # of 8: branches of 1, 3, 3, 1
        branches = [conv(1, 8, 1), conv(1, 8, 1), conv(3, 1, 3), conv(1, 8, 1), conv(3, 1, 3), conv(3, 3, 3)]
        return nnopt.inception(1, (8,), **shape), conv(8, 2, 3) + sum(branches) + conv(1, 8, 1) + 8 * 3 + 3
    if family == "resnet":
        blocks = [conv(4, 4, 3), conv(4, 4, 3), conv(6, 4, 3), conv(6, 6, 3), conv(6, 4, 1)]
        return nnopt.resnet(1, (4, 6), **shape), conv(4, 2, 3) + sum(blocks) + 6 * 3 + 3
    if family == "senet":
        gate = (2 * 8 + 2) + (8 * 2 + 8)
        return nnopt.senet(1, (8,), **shape), conv(8, 2, 3) + 2 * conv(8, 8, 3) + gate + 8 * 3 + 3
    if family == "densenet":  # 6 channels, then 9, 12, halved to 6, then 9, 12
        stages = 2 * ((2 * 6 + 3 * 6 * 3) + (2 * 9 + 3 * 9 * 3))
        return nnopt.densenet(2, (3, 3), **shape), 6 * 2 * 3 + stages + (
            2 * 12 + 6 * 12
        ) + 2 * 12 + 12 * 3 + 3
    block = 2 * 4 + 4 * (4 * 4 + 4) + 2 * 4 + (4 * 10 + 10) + (10 * 4 + 4)
    return nnopt.vit(2, (4, 10), **shape), (4 * 2 * 4 + 4) + 2 * block + 2 * 4 + 4 * 3 + 3


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_definition(family):
    spec, parameters = counted(family)
    assert parameter_count(spec) == measure.count(spec).parameters == parameters


def test_resnet_20_has_its_parameters():
    # with projections, counted by hand: stem 464, stages 14,016, 51,648 and 205,696, head 650
    assert parameter_count(nnopt.resnet(3, (16, 32, 64), input_shape=(3, 32, 32), outputs=10)) == 272_474


@pytest.mark.torch
@pytest.mark.keras
@pytest.mark.parametrize(("shape", "blocks"), [((2, 21), 2), ((1, 14, 11), 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_build_and_train_alike_in_both_frameworks(family, shape, blocks):
    widths = {"vit": (6, 7), "inception": (8, 13), "densenet": (3, 2)}.get(family, (4, 5))
    spec = FAMILIES[family](blocks, widths, input_shape=shape, outputs=4)
    data = arrays(shape=shape)
    training = nnopt.Training(epochs=2, batch_size=30, learning_rate=0.05, momentum=0.9)
    models = {framework: nnopt.build(spec, framework, seed=1) for framework in ("torch", "keras")}
    outputs = {name: nnopt.predict(model, data.x_test) for name, model in models.items()}
    np.testing.assert_allclose(outputs["torch"], outputs["keras"], atol=1e-5, rtol=1e-5)
    cost = measure.count(spec)
    assert sum(p.numel() for p in models["torch"].parameters()) == cost.parameters
    assert sum(int(np.prod(v.shape)) for v in models["keras"].trainable_variables) == cost.parameters
    losses = {name: nnopt.fit(m, data, training, seed=3, device="cpu") for name, m in models.items()}
    for history in losses.values():
        assert history["train_loss"][-1] < history["train_loss"][0]
    np.testing.assert_allclose(losses["torch"]["train_loss"], losses["keras"]["train_loss"], rtol=2e-3)


@pytest.mark.torch
@pytest.mark.parametrize("family", FAMILIES)
def test_macs_are_those_that_pytorch_counts(family):
    """torch.utils.flop_counter counts 2 operations per multiply-accumulate, attention's products included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    spec = FAMILIES[family](2, {"inception": (8, 13)}.get(family, (4, 6)), input_shape=(2, 12, 9), outputs=3)
    model = nnopt.build(spec).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 2, 12, 9))
    assert measure.count(spec).macs == counter.get_total_flops() / 2


def test_what_attention_reads_keeps_all_its_nodes():
    spec = nnopt.vit(1, (4, 6), input_shape=(1, 8), outputs=3)
    hidden = next(node.name for node in spec.nodes if node.options.get("filters") == 6)
    coupling = couple(spec)
    assert list(coupling.groups) == [hidden] and coupling.size == 6
    query = spec.nodes[3].name
    with pytest.raises(NnoptError) as error:
        coupling.kept({query: np.arange(4) > 0})
    assert str(error.value) == (
        f"nodes of layer {query!r} cannot be removed; received a mask that does. They are outputs of the network, "
        "joined to its inputs or outputs, or read by attention or a position encoding."
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: nnopt.vit(1, (4,), input_shape=(1, 40), outputs=10),
            "widths of a vit must be two: channels of a patch, hidden units; received (4,).",
        ),
        (
            lambda: nnopt.vgg(1, (4,), input_shape=(40,), outputs=10),
            "input_shape must be (channels, length) or (channels, height, width); received (40,).",
        ),
        (
            lambda: nnopt.inception(1, (5,), input_shape=(1, 40), outputs=10),
            "each of widths must be a whole number, at least 6; received 5.",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
