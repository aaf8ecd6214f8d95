import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.penalties import Penalty

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("L1", 0.1),
            "kind must be one of l1, l2, elastic_net, group_lasso, proximal_l1, proximal_group_lasso, slimming, l0; received 'L1'. Did you mean 'l1'?",
        ),
        (("l1", -1), "strength must be a finite number, at least 0; received -1."),
        (("l1", float("nan")), "strength must be a finite number, at least 0; received nan."),
        (("elastic_net", 1, 1.5), "mix must be from 0 to 1; received 1.5."),
    ],
)
def test_penalties_out_of_range_are_refused(options, sentence):
    with pytest.raises(NnoptError) as error:
        Penalty(*options)
    assert str(error.value) == sentence
