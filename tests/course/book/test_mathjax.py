"""What MathJax knows, against what its documentation lists, and formulas that it would show in red."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnopt_lib.course.book.mathjax import Vocabulary, formula_problems, read_vocabulary

BUNDLE = Path(__file__).parents[3] / "book" / "vendor" / "mathjax" / "tex-chtml-full.js"
# One or two of each package that the documentation of MathJax 3.2 lists for tex-chtml-full.js.
BY_PACKAGE = {
    "base": r"frac alpha Gamma left right text mathrm langle begin end , ; ! | { } quad sum limits not over",
    "ams": r"operatorname DeclareMathOperator mathbb lVert rVert dfrac binom tag eqref smallsetminus",
    "others": r"toggle bbox boldsymbol braket AxiomC cancel centernot color cellcolor empheqlbrace enclose "
    r"xmapsto degree href ce newcommand def let coloneqq textregistered upalpha unicode verb",
}


@pytest.fixture
def known() -> Vocabulary:
    return read_vocabulary(BUNDLE)


@pytest.mark.parametrize("package", BY_PACKAGE)
def test_commands_of_every_package_that_is_loaded_are_known(known: Vocabulary, package: str) -> None:
    assert set(BY_PACKAGE[package].split()) - known.commands == set()


def test_no_word_of_the_program_and_no_package_that_is_not_loaded_is_known(known: Vocabulary) -> None:
    # Words of JavaScript and of the bundle's own tables; commands of the packages physics and setoptions.
    foreign = {
        "constructor",
        "length",
        "prototype",
        "texClass",
        "mathvariant",
        "qty",
        "dv",
        "setOptions",
        "foo",
    }
    assert foreign & known.commands == set()
    assert {"align", "align*", "pmatrix", "cases", "split", "CD", "dcases"} <= known.environments
    assert not {"document", "tabular", "frac", "foo"} & known.environments


@pytest.mark.parametrize(
    ("formula", "problems"),
    [
        (r"\frac{a}{b} \text{ of $x$ and \textbf{y}} \\ \{a\} \% \, \|w\|_2", []),
        ("a\\\nb", []),
        (r"\begin{align} a &= \left(b\right. \\ c \end{align} % \foo {", []),
        (r"\foo + \foo + \bar{x}", [r"\foo, which MathJax does not know"]),
        (r"\begin{tabular}{l} a \end{tabular}", [r"\begin{tabular}, which MathJax does not know"]),
        (r"\frac{a}{b", ["{ without its other half"]),
        ("a}", ["{ without its other half"]),
        (r"\left( a", [r"\left without its other half"]),
        (r"\begin{matrix} { \end{matrix} }", [r"\begin{matrix} without its other half"]),
        (r"\end{matrix}", [r"\begin{matrix} without its other half"]),
        (r"\newcommand{\foo}[1]{#1} \foo{a}", []),
        (r"\def\foo{a} \DeclareMathOperator{\baz}{baz} \foo \baz", []),
        (r"\newenvironment{foo}{a}{b} \begin{foo} \end{foo}", []),
    ],
)  # fmt: skip
def test_what_mathjax_would_show_in_red_is_a_problem(
    known: Vocabulary, formula: str, problems: list[str]
) -> None:
    shown = " ".join(formula.split())
    assert list(formula_problems(formula, known)) == [f"the formula ${shown}$ has {one}" for one in problems]


def test_a_definition_holds_for_the_formulas_after_it_on_its_page_alone(known: Vocabulary) -> None:
    assert list(formula_problems(r"\newcommand\foo{a}", known)) == []
    assert list(formula_problems(r"\foo", known)) == []
    assert "foo" not in read_vocabulary(BUNDLE).commands


def test_a_long_formula_is_cut_short(known: Vocabulary) -> None:
    (problem,) = formula_problems("a + " * 50 + r"\foo", known)
    assert problem == f"the formula ${'a + ' * 19}...$ has \\foo, which MathJax does not know"
