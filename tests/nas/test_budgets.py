import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib import measure
from nnopt_lib.checks import NnoptError
from tests.networks import FAMILIES, PROPORTIONS, parameter_count


@given(
    st.sampled_from([*FAMILIES]),
    st.integers(1, 3),
    st.integers(20_000, 400_000),
    st.sampled_from(["macs", "parameters"]),
)
@settings(max_examples=60, deadline=None)
def test_at_budget_is_within_3_percent_and_never_above(family, blocks, most, kind):
    options = {
        "blocks": blocks,
        "widths": PROPORTIONS.get(family, (1, 2)),
        "input_shape": (1, 40),
        "outputs": 10,
    }
    most *= 3 if kind == "macs" else 1
    try:
        spec = nnopt.at_budget(FAMILIES[family], **{kind: most}, **options)
    except NnoptError:  # then the steps are really too large: no pair of widths near the proportions is close
        pairs = itertools.product(
            range(6 if family == "inception" else 2, 25), range(6 if family == "inception" else 2, 50)
        )
        shares = [
            (a, b) for a, b in pairs if 0.5 <= (b / a) / (options["widths"][1] / options["widths"][0]) <= 2
        ]
        costs = [
            getattr(measure.count(FAMILIES[family](**{**options, "widths": each})), kind) for each in shares
        ]
        assert not any(0.97 * most <= cost <= most for cost in costs)
        assert max(costs) > most
        return
    assert 0.97 * most <= getattr(measure.count(spec), kind) <= most


def test_at_budget_scales_other_builders_too():
    spec = nnopt.at_budget(nnopt.mlp, parameters=2410, units=(2, 1), inputs=64, outputs=10)
    assert 2338 <= parameter_count(spec) <= 2410
    wide, narrow = (spec.shapes[f"dense_{i}"][0] for i in (1, 2))
    assert 1.7 < wide / narrow < 2.4
    assert nnopt.at_budget(nnopt.cnn, macs=10**6, filters=(1, 2), input_shape=(1, 28, 28), outputs=10)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: nnopt.at_budget(nnopt.mlp, parameters=50, units=(1,), inputs=64, outputs=10),
            "mlp needs at least 85 parameters, with (1,); received 50. Give at least that many parameters, or fewer "
            "blocks.",
        ),
        (
            lambda: nnopt.at_budget(nnopt.mlp, parameters=130, units=(1,), inputs=64, outputs=10),
            "no units of mlp come within 3 % of 130 parameters; received 85 with (1,), 160 with (2,). Give a larger "
            "budget, or more widths to vary.",
        ),
        (
            lambda: nnopt.at_budget(nnopt.mlp, units=(1,), inputs=64, outputs=10),
            "at_budget needs either parameters or macs; received none.",
        ),
        (
            lambda: nnopt.at_budget(nnopt.mlp, macs=10, parameters=10, units=(1,), inputs=64, outputs=10),
            "at_budget needs either parameters or macs; received both.",
        ),
        (
            lambda: nnopt.at_budget(nnopt.lenet_5, macs=10**6),
            "at_budget scales one of widths, units, filters; pass it as proportions; received [].",
        ),
        (
            lambda: nnopt.at_budget(nnopt.mlp, macs=10**6, units=(1, 0), inputs=64, outputs=10),
            "units must be proportions above 0, at least one; received (1, 0).",
        ),
        (
            lambda: nnopt.at_budget(
                nnopt.vgg, macs=10**6, blocks=0, widths=(1,), input_shape=(1, 40), outputs=10
            ),
            "blocks must be a whole number, at least 1; received 0.",
        ),
        (lambda: nnopt.Budget(parameters=0), "parameters must be a whole number, at least 1; received 0."),
        (
            lambda: nnopt.Budget(latency_seconds=0),
            "latency_seconds must be a finite number, above 0; received 0.",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
