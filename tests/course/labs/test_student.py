"""What the labs' notebooks import: seeds of one's own, and the drawn comparison."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from nnopt_lib import labs
from nnopt_lib.checks import NnoptError


def test_seeds_are_stable_whole_numbers_below_two_to_the_31():
    assert labs.seed_of("ada") == 0xFDEE430D % 2**31  # printf ada | sha256sum
    seeds = {labs.seed_of(f"student-{number}") for number in range(500)}
    assert len(seeds) == 500
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)


def test_a_seed_does_not_depend_on_how_a_system_writes_accents():
    name = "Zoé Müller"
    assert labs.seed_of(unicodedata.normalize("NFD", name)) == labs.seed_of(name) == labs.seed_of(f" {name} ")


@pytest.mark.parametrize("name", ["", "  ", None, 7])
def test_a_seed_needs_a_name(name):
    with pytest.raises(NnoptError) as refused:
        labs.seed_of(name)
    assert str(refused.value) == (
        f"student must be a name between quotes; received {name!r}. "
        'As your teacher\'s list has it: student = "ada".'
    )


def drawn(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_difference_is_put_into_words_and_signed_in_its_cell():
    figure = labs.compare([[1, 2.5], [-3, 0]], [[1, 2.5], [3, 0]], title="Scores")
    assert repr(figure) == "1 of 4 cells differs, first at [1, 0]: received -3, expected 3."
    assert drawn(figure) == ["1", "2.5", "≠ -3", "0"]
    assert figure.get_suptitle().splitlines()[0] == "Scores"
    thick = [patch for patch in figure.axes[0].patches if patch.get_linewidth() > 2]
    assert len(thick) == 1
    data, metadata = figure._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata == {"image/png": {"alt": repr(figure)}}


def test_equal_arrays_have_no_mark():
    figure = labs.compare(np.array([True, False]), [True, False])
    assert repr(figure) == "All 2 cells are equal."
    assert drawn(figure) == ["True", "False"]
    assert repr(labs.compare([np.nan, 1 / 3], [np.nan, 0.3333333333])) == "All 2 cells are equal."


class Explodes:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("received", "sentence"),
    [
        (None, "What was received is not an array of numbers but of type NoneType."),
        ("abc", "What was received is not an array of numbers but of type str."),
        ([[1], [1, 2]], "What was received is not an array of numbers but of type list."),
        (Explodes(), "What was received is not an array of numbers but of type Explodes."),
        (3.0, "What was received has the shape (), which is not drawn."),
        ([], "What was received has the shape (0,), which is not drawn."),
        ([1, 2, 3], "The shape differs: received (3,), expected (2,)."),
        ([[1, 2]], "The shape differs: received (1, 2), expected (2,)."),
    ],
)
def test_nothing_that_a_student_passes_makes_it_fail(received, sentence):
    figure = labs.compare(received, [1, 2])
    assert repr(figure) == sentence
    assert figure._repr_mimebundle_()[0]["image/png"]


def test_large_arrays_are_cut_but_compared_whole():
    figure = labs.compare(np.arange(400).reshape(20, 20), np.arange(400).reshape(20, 20)[::-1])
    assert repr(figure).startswith("400 of 400 cells differ, first at [0, 0]")
    assert len(drawn(figure)) == 144


def test_what_is_expected_comes_from_the_author_and_is_checked():
    with pytest.raises(NnoptError) as refused:
        labs.compare([1], "abc")
    assert str(refused.value) == "expected must be numbers in one or two dimensions; received 'abc'."


@pytest.mark.torch
def test_a_tensor_with_a_gradient_is_drawn():
    import torch

    assert repr(labs.compare(torch.ones(2, requires_grad=True), [1, 1])) == "All 2 cells are equal."


def test_another_course_gives_other_numbers_and_none_the_usual_ones():
    seeds = {labs.seed_of("ada"), labs.seed_of("ada", "spring"), labs.seed_of("ada", "autumn")}
    assert len(seeds) == 3
    assert labs.seed_of("ada", "") == labs.seed_of("ada")


def test_settings_are_chosen_by_seed_and_name_and_every_option_occurs():
    drawn = [labs.choose(seed, "width", [8, 16, 32]) for seed in range(60)]
    assert drawn == [labs.choose(seed, "width", [8, 16, 32]) for seed in range(60)]
    assert set(drawn) == {8, 16, 32}
    assert drawn != [labs.choose(seed, "depth", [8, 16, 32]) for seed in range(60)]
    with pytest.raises(
        NnoptError, match="there must be something to choose 'width' from; received no options"
    ):
        labs.choose(1, "width", [])
