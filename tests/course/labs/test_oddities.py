"""What no lab asks for is named with its cell; what honest notebooks are full of is not."""

from __future__ import annotations

import pytest

from nnopt_lib.course.chapters.source import read_source
from nnopt_lib.course.labs.oddities import LONGEST, MOST, oddities
from nnopt_lib.course.labs.sources import find_labs
from nnopt_lib.course.labs.submissions import name_of
from tests import labs_class

LAB = "import numpy as np\nimport torch\nfrom nnopt_lib import labs\nseed = labs.seed_of(student)"
LABS = [lab.name for lab in find_labs()]

ODD = {
    "np.abs = lambda x: x": "changes what belongs to a module: np.abs",
    "torch.nn.functional.cross_entropy = f": "changes what belongs to a module: torch.nn.functional.cross_entropy",
    "labs.seed_of = lambda name: 0": "changes what belongs to a module: labs.seed_of",
    "from nnopt_lib import labs as l\nl.seed_of = f": "changes what belongs to a module: l.seed_of",
    "m = np\nm.abs = f": "changes what belongs to a module: m.abs",
    "setattr(np, 'abs', f)": "changes what belongs to a module: setattr(np, 'abs', f)",
    "del np.abs": "changes what belongs to a module: np.abs",
    "np.random.default_rng = f": "changes what belongs to a module: np.random.default_rng",
    "np.__dict__['abs'] = f": "looks inside Python's objects: np.__dict__",
    "vars(np)['abs'] = f": "changes names by their text: vars(np)['abs']",
    "globals()['numbers'] = 1": "changes names by their text: globals()['numbers']",
    "keep.__code__ = other.__code__": "changes how an object works: keep.__code__",
    "x.__class__ = Y": "changes how an object works: x.__class__",
    "import builtins\nbuiltins.print = f": "reaches into Python itself: import builtins",
    "__builtins__.abs = f": "reaches into Python itself: __builtins__",
    "class AssertionError(Exception): pass": "gives another meaning to a name of Python's: AssertionError",
    "AssertionError = None": "gives another meaning to a name of Python's: AssertionError",
    labs_class.STRIP_ASSERTS: "reaches into Python itself: import ast",
    labs_class.LAST_LINE_ONLY: "changes how cells are run: get_ipython",
    labs_class.PATCHED_SHELL: "reaches for the grader: import IPython.core.interactiveshell.InteractiveShell",
    labs_class.FORGED_POINTS: "changes how cells are run: sys.displayhook",
    labs_class.FORGED_REPLY: "reaches for other programs: os._exit",
    labs_class.FORK_BOMB: "reaches for other programs: os.fork",
    labs_class.reader(80): "reaches for the network: import socket",
    "import sys\nsys.modules['numpy'] = f": "reaches into Python itself: sys.modules",
    "from sys import modules": "reaches into Python itself: import sys.modules",
    "import gc\ngc.get_objects()": "reaches into Python itself: import gc",
    "import sys\nsys._getframe(1)": "looks at frames of other code: sys._getframe",
    "try:\n    1 / 0\nexcept Exception as e:\n    e.__traceback__.tb_frame": "looks at frames of other code: e.__traceback__",
    "import inspect": "looks at frames of other code: import inspect",
    "().__class__.__base__.__subclasses__()": "looks inside Python's objects: ().__class__.__base__.__subclasses__",
    "import os\nos.environ['NNOPT_STUDENT'] = 'bob'": "looks at the environment: os.environ",
    "from os import environ": "looks at the environment: import os.environ",
    "np.random.seed(0)": "sets a random generator that others share: np.random.seed",
    "torch.manual_seed(0)": "sets a random generator that others share: torch.manual_seed",
    "open('/etc/passwd').read()": "reads a file of another folder: open('/etc/passwd')",
    "np.load('../source/nodes/key.npy')": "reads a file of another folder: np.load('../source/nodes/key.npy')",
    "from pathlib import Path\nPath('~').expanduser()": "reads a file of another folder: Path('~')",
    "open(f'/proc/{1}/mem')": "reads a file of another folder: open(f'/proc/{1}/mem')",
    "open(''.join(x))": "opens a file whose name it computes: open(''.join(x))",
    "np.__file__": "looks inside Python's objects: np.__file__",
    "import subprocess as s": "reaches for other programs: import subprocess",
    "import urllib.request": "reaches for the network: import urllib.request",
    "from nnopt_lib.course.labs import grade": "reaches for the grader: import nnopt_lib.course.labs.grade",
    "eval('1')": "runs text as code: eval",
    "class N(float):\n    def __eq__(self, o):\n        return True": "has objects that answer comparisons themselves: N.__eq__",
    "seed = labs.seed_of('bob')": "takes the seed of a name that it writes out: labs.seed_of('bob')",
    "!cat /etc/passwd": "gives a command to the shell or to IPython: !cat /etc/passwd",
    "%%bash\nls": "gives a command to the shell or to IPython: %%bash",
    "%env NNOPT_STUDENT=bob": "gives a command to the shell or to IPython: %env NNOPT_STUDENT=bob",
    "from unittest.mock import patch": "stands in for other code: import unittest.mock.patch",
}  # fmt: skip


@pytest.mark.parametrize(("source", "words"), ODD.items(), ids=lambda one: one.strip()[:40].replace("/", ""))
def test_what_no_lab_asks_for_is_a_sentence_with_the_cells_name(source, words):
    found = oddities({"student": "student = 'ada'", "own cell 1": LAB, "mask": source})
    assert f"cell mask {words}" in found
    assert all(sentence.startswith("cell mask ") for sentence in found)


HONEST = [
    "random = np.random.default_rng(0)\nx = random.normal(size=3)",
    "import matplotlib.pyplot as plt\nplt.rcParams['figure.dpi'] = 90\nplt.rcParams.update({'font.size': 9})",
    "import matplotlib as mpl\nmpl.rcParams['font.size'] = 9\nmpl.use('agg')",
    "import warnings\nwarnings.filterwarnings('ignore')",
    "def sum(values):\n    total = 0\n    for value in values:\n        total += value\n    return total",
    "set = {1, 2}\nlist = [1]\nmax = 3",
    "%matplotlib inline\n%timeit np.abs(1)",
    "from IPython.display import display\ndisplay(np.eye(2))",
    "np.set_printoptions(precision=3)\ntorch.set_num_threads(1)",
    "torch.backends.cudnn.deterministic = True",
    "import os\nprint(os.cpu_count(), os.path.exists('notes.txt'))",
    "with open('notes.txt', 'w') as file:\n    file.write('mine')",
    "name = 'notes.txt'\nprint(open(name).read())",
    "import json, math, itertools, time, copy, typing, traceback\nfrom functools import reduce",
    "from types import SimpleNamespace\nbox = SimpleNamespace()\nbox.norm = 1",
    "from nnopt_lib.pruning import scores\ndef top(scores):\n    scores[0] = 1\n    return scores",
    "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.layer = 1",
    "model.eval()\nmodel.dense_1.weight.data[0] = 0\nmodel.dense_1.weight.grad = None",
    "numbers['norm'] = np.float64(1.5)\ntable = {}\ntable['a'] = table.__class__.__name__",
    "try:\n    import seaborn\nexcept ImportError:\n    seaborn = None",
    "try:\n    assert x\nexcept AssertionError as error:\n    print(error)",
    "for seed in range(3):\n    print(labs.seed_of(student) + seed)",
    "variant = labs.seed_of('variant', course_key)",
    "text = 'C: see chapter 3 / 4, ../ and ~'",
    "def f(:",
]


@pytest.mark.parametrize("source", HONEST, ids=range(len(HONEST)))
def test_honest_code_is_left_alone(source):
    assert oddities({"student": "student = 'ada'", "own cell 1": LAB, "mask": source}) == []


@pytest.mark.parametrize("name", LABS)
def test_the_labs_own_solutions_and_given_cells_are_left_alone(name):
    (lab,) = find_labs([name])
    code = [cell for cell in read_source(lab).cells if cell.cell_type == "code"]
    cells = {name_of(cell) or f"own cell {number}": cell.source for number, cell in enumerate(code)}
    cells = {key: source for key, source in cells.items() if not key.endswith("-test")}
    assert len(cells) > 8
    assert oddities({**cells, "student": "student = 'ada'"}) == []
    # The reference takes the name from the grader, as no student should.
    assert "cell student looks at the environment: os.environ" in oddities(cells)


def test_a_notebook_full_of_oddities_gives_a_short_list_of_short_sentences():
    many = "\n".join(f"np.name_{number} = 1" for number in range(100))
    found = oddities({"own cell 1": LAB, "mask": f"{many}\nnp.{'x' * 5000} = 1"})
    assert len(found) == MOST + 1 and found[-1] == "and 81 more of the kind"
    (long,) = oddities({"own cell 1": LAB, "mask": f"np.{'x' * 5000} = 1"})
    assert len(long) < LONGEST + 60 and long.endswith("xxx...")
    deep = "import os\nos" + ".environ" * 900
    assert oddities({"mask": deep})  # named, or too deep to be read; never an error
