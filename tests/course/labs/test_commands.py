"""The commands `nnopt labs`: what cannot be done is one sentence."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.notebook, pytest.mark.usefixtures("private_temporary_folder")]


REFUSALS = [
    (["grade", "tinny"], "'tinny' must be a lab that was released in {course}. Did you mean 'tiny'?"),
    (["report", "depth"], "'depth' must be a lab that was released in {course}. Choose from tiny."),
    (["grade", "tiny"], "somebody must have handed in tiny; received no notebook in {course}/submitted. "
     "nnopt labs collect tiny FOLDER --course {course} takes them in."),
    (["report", "tiny"], "somebody must have handed in tiny; received no notebook in {course}/submitted. "
     "nnopt labs collect tiny FOLDER --course {course} takes them in."),
    (["grade", "tiny", "--seconds", "0"], "--seconds must be a finite number, above 0; received 0."),
    (["grade", "tiny", "--memory-gib", "-1"], "--memory-gib must be a finite number, above 0; received -1."),
    (["grade", "tiny", "--processes", "0"], "--processes must be a whole number, at least 1; received 0."),
    (["grade", "tiny", "--file-mib", "0"], "--file-mib must be a whole number, at least 1; received 0."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"), REFUSALS, ids=lambda one: " ".join(one)[:40] if isinstance(one, list) else ""
)
def test_bad_input_is_one_sentence(course, capsys, words, sentence):
    from nnopt_lib.cli import main

    assert main(["labs", *words, "--course", str(course.folder)]) == 1
    assert capsys.readouterr().err == f"nnopt: {sentence.format(course=course.folder)}\n"
