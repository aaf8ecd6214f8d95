"""The class's key: kept, written into what is released, and not changed under students' hands."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs import course_key
from nnopt_lib.course.labs.course_key import (
    choose_key,
    has_variants,
    key_of,
    read_settings,
    with_key,
    write_settings,
)


def test_settings_are_kept_beside_each_other(tmp_path):
    assert read_settings(tmp_path) == {} and key_of(tmp_path) == ""
    write_settings(tmp_path, due={"nodes": "2027-03-01"})
    choose_key(tmp_path, "herbst-27")
    choose_key(tmp_path, "Frühling_28")  # nothing was released yet
    assert read_settings(tmp_path) == {"due": {"nodes": "2027-03-01"}, "key": "Frühling_28"}
    assert key_of(tmp_path) == "Frühling_28"


@pytest.mark.parametrize("content", ["", "[]", '{"key": ', "null", "\x00"], ids=range(5))
def test_a_damaged_file_is_refused_and_stays(tmp_path, content):
    (tmp_path / "course.json").write_text(content)
    with pytest.raises(NnoptError, match=r"course\.json must hold a JSON object, .*Put back a copy of it"):
        key_of(tmp_path)
    with pytest.raises(NnoptError):
        write_settings(tmp_path, key="word")
    assert (tmp_path / "course.json").read_text() == content


@pytest.mark.parametrize("word", ["", "two words", 'a"b', "x" * 41, "a\n"], ids=range(5))
def test_a_key_is_one_word(tmp_path, word):
    with pytest.raises(NnoptError) as refused:
        choose_key(tmp_path, word)
    assert str(refused.value) == (
        f"--key must be one word of at most 40 letters, digits and the signs . - _; received {word!r}."
    )
    (tmp_path / "course.json").write_text('{"key": "two words"}')
    with pytest.raises(NnoptError, match="must be one word; received 'two words'"):
        key_of(tmp_path)


def test_the_key_stays_once_students_have_a_notebook(tmp_path):
    released = tmp_path / "release" / "nodes" / "nodes.ipynb"
    released.parent.mkdir(parents=True)
    released.touch()
    with pytest.raises(NnoptError) as refused:
        choose_key(tmp_path, "late")
    assert str(refused.value) == (
        "the key must stay as it was once a lab was released: students have nodes with no key, and would get other "
        "numbers; received 'late'. Name another folder for another class, or add --force and hand out all labs anew."
    )
    assert key_of(tmp_path) == ""
    choose_key(tmp_path, "late", force=True)
    choose_key(tmp_path, "late")  # the same is no change
    with pytest.raises(NnoptError, match="students have nodes with the key 'late', and would"):
        choose_key(tmp_path, "later")
    assert key_of(tmp_path) == "late"


def test_the_key_is_written_into_a_copy_of_the_cell_tagged_for_it():
    text = 'import os\ncourse_key = ""  # your teacher\'s\nother = ""'
    source = new_notebook(
        cells=[new_code_cell(text, metadata={"tags": [course_key.TAG]}), new_code_cell(text)]
    )
    keyed = with_key("nodes", source, "été-27")
    assert keyed.cells[0].source == 'import os\ncourse_key = "été-27"  # your teacher\'s\nother = ""'
    assert keyed.cells[1].source == source.cells[0].source == text
    assert nbformat.writes(with_key("nodes", source, "")) == nbformat.writes(source)
    assert has_variants(source) and not has_variants(new_notebook(cells=[new_code_cell(text)]))
    source.cells[0].source = 'course_key = "mine"'
    with pytest.raises(NnoptError) as refused:
        with_key("nodes", source, "word")
    assert str(refused.value) == (
        'the cell tagged course-key in lab nodes must assign course_key = ""; received '
        "'course_key = \"mine\"'. Release writes the class's key between the quotes."
    )
