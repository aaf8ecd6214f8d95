"""Code that no lab asks for: what reaches for the grader, for other files, or changes the library. Read only.

An oddity is a sentence for the teacher and takes no point. What is listed here is what attempts to cheat were
made of; code of which honest notebooks are full (a generator of one's own, settings of plots and warnings, a
function that happens to be called sum) is left alone.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator, Mapping

from nnopt_lib.course.labs.trees import parse

MOST, LONGEST = 20, 60  # sentences of one notebook, letters of what a sentence quotes: students write both

# Modules that nothing in a lab needs, and what they are for.
MODULES = {
    "reaches for other programs": "subprocess pty multiprocessing signal atexit ctypes _ctypes cffi psutil",
    "reaches for the network": "socket socketserver ssl http urllib requests aiohttp ftplib smtplib zmq",
    "reaches into Python itself": "gc importlib imp builtins ast dis codeop code tracemalloc",
    "stands in for other code": "mock unittest.mock",
    "looks at frames of other code": "inspect",
    "reaches for the grader": "nnopt_lib.course nbgrader nbclient ipykernel jupyter_client IPython.core",
}
# Attributes by which one gets from a value to what lies around it, whatever the value is.
FRAMES = (
    "f_back f_globals f_locals f_builtins tb_frame gi_frame cr_frame __traceback__ currentframe _getframe"
)
INSIDE = (
    "__globals__ __code__ __closure__ __subclasses__ __builtins__ __loader__ __spec__ __reduce__ __file__"
)
HOOKS = (
    "ast_transformers input_transformers_post input_transformers_cleanup input_transformer_manager run_code"
)
HOOKS += " displayhook excepthook settrace setprofile meta_path path_hooks addaudithook set_custom_exc"
REACHED = {
    **dict.fromkeys(FRAMES.split(), "looks at frames of other code"),
    **dict.fromkeys(INSIDE.split(), "looks inside Python's objects"),
    **dict.fromkeys(HOOKS.split(), "changes how cells are run"),
}
# Full names, from their module on.
CALLED = {
    "looks at the environment": "os.environ os.getenv os.putenv os.environb",
    "reaches for other programs": "os.system os.popen os.fork os.kill os._exit os.abort os.execv os.execve "
    "os.spawnv os.posix_spawn os.setsid",
    "looks around among files": "os.walk os.listdir os.scandir os.chdir os.open os.readlink "
    "pathlib.Path.home os.path.expanduser glob.glob shutil.copy shutil.move shutil.rmtree",
    "reaches into Python itself": "sys.modules",
    "sets a random generator that others share": "random.seed random.setstate numpy.random.seed "
    "numpy.random.set_state torch.manual_seed torch.random.manual_seed torch.set_rng_state torch.seed "
    "tensorflow.random.set_seed keras.utils.set_random_seed",
}
BUILTINS = {
    "get_ipython": "changes how cells are run",
    "exec": "runs text as code",
    "eval": "runs text as code",
    "compile": "runs text as code",
    "__import__": "reaches into Python itself",
    "__builtins__": "reaches into Python itself",
    "__loader__": "reaches into Python itself",
    "__debug__": "changes what assert does",
}
# Names that assert, import and class look up; a function called sum is the student's own affair.
MEANT = {name for name, value in vars(builtins).items() if "Err" in name and isinstance(value, type)}
MEANT |= {"Exception", "BaseException", "__import__", "__builtins__", "__build_class__", "__debug__"}
LIES = "eq ne lt le gt ge bool array array_ufunc array_function torch_function instancecheck"
LYING = {f"__{name}__" for name in LIES.split()}  # objects that say themselves what they are equal to
READERS = "open load loadtxt genfromtxt fromfile read_csv read_text read_bytes Path memmap load_file CDLL"
OUTSIDE = r"[/~\\]|[A-Za-z]:|.*\.\.[/\\]|\.\.$"  # how a path begins that leads out of the notebook's folder
# Settings of a module that are there to be set.
SETTINGS = r"(matplotlib(\.pyplot)?\.rcParams|torch\.backends\..+|pandas\.options\..+|numpy\.random\.rng)$"
MAGICS = {"matplotlib", "time", "timeit", "precision", "pprint", "config", "load_ext", "autoreload", "who"}


def oddities(cells: Mapping[str, str]) -> list[str]:
    """A sentence, with the cell's name, for each thing in `cells` (sources by name) that no lab asks for."""
    trees, found = {}, dict[str, None]()
    for name, source in cells.items():
        tree, magics = parse(source)
        trees[name] = tree
        for line in magics:
            if re.split(r"\W+", line.lstrip("%"))[0] not in MAGICS:
                found[_sentence(name, "gives a command to the shell or to IPython", line)] = None
    imported = _imported(tree for tree in trees.values() if tree)
    own = {one for tree in trees.values() if tree for one in _own(tree)}
    for name, tree in trees.items():
        try:
            for what, code in _Reader(name, imported, own).read(tree) if tree else ():
                found[_sentence(name, what, code)] = None
        except RecursionError:
            found[f"cell {name} is nested too deeply to be read"] = None
    more = [f"and {len(found) - MOST} more of the kind"] if len(found) > MOST else []
    return [*list(found)[:MOST], *more]


def _sentence(cell: str, what: str, code: str) -> str:
    quoted = " ".join(code.split())
    return f"cell {cell} {what}: {quoted if len(quoted) <= LONGEST else quoted[:LONGEST] + '...'}"


def _imported(trees: Iterable[ast.Module]) -> dict[str, str]:
    """What names stand for, in full: np is numpy; also where one was given to another, as m = np.random."""
    names: dict[str, str] = {}
    nodes = [node for tree in trees for node in ast.walk(tree)]
    for node in nodes:
        if isinstance(node, ast.Import):
            for one in node.names:
                names[one.asname or one.name.split(".")[0]] = (
                    one.name if one.asname else one.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    given = [(node.targets, node.value) for node in nodes if isinstance(node, ast.Assign)]
    for targets, value in (*given, *given):  # twice: one name may come from another that comes later
        full = _full(value, names)
        names |= {
            one.id: full for one in targets if full and isinstance(one, ast.Name) and one.id not in names
        }
    return names


def _own(tree: ast.Module) -> Iterator[str]:
    """Names that a cell binds itself: variables and arguments."""
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name


def _full(node: ast.AST, imported: Mapping[str, str]) -> str:
    """The full name of ``np.random.seed``, empty where it begins with nothing imported."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id in imported:
        return ".".join([imported[node.id], *reversed(parts)])
    return ""


class _Reader:
    """One cell, read: pairs of what is odd and the code that is."""

    def __init__(self, cell: str, imported: Mapping[str, str], own: set[str]) -> None:
        self.cell, self.imported, self.own = cell, imported, own

    def read(self, tree: ast.Module) -> Iterator[tuple[str, str]]:
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    yield from self._modules([one.name for one in names])
                case ast.ImportFrom(module=module, names=names):
                    yield from self._modules([f"{module}.{one.name}" for one in names])
                case ast.Attribute(ctx=ast.Load()) | ast.Name(ctx=ast.Load()):
                    yield from self._reached(node)
                case ast.Attribute() | ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Name():
                    yield from self._assigned(node)
                case ast.Call():
                    yield from self._called(node)
                case ast.ClassDef(name=name, body=body):
                    yield from self._named(name)
                    defined = {one.name for one in body if isinstance(one, ast.FunctionDef)}
                    for method in sorted(defined & LYING):
                        yield "has objects that answer comparisons themselves", f"{name}.{method}"
                case ast.FunctionDef(name=name):
                    yield from self._named(name)
                case ast.Constant(value="NNOPT_STUDENT"):
                    yield "looks at the environment", "NNOPT_STUDENT"

    def _modules(self, names: list[str]) -> Iterator[tuple[str, str]]:
        for name in names:
            for what, modules in MODULES.items():
                if any(f"{name}.".startswith(f"{module}.") for module in modules.split()):
                    yield what, f"import {name}"
            for what, full in CALLED.items():
                if name in full.split():
                    yield what, f"import {name}"

    def _reached(self, node: ast.Attribute | ast.Name) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Name):
            if node.id in BUILTINS and node.id not in self.imported:
                yield BUILTINS[node.id], node.id
            return
        full = _full(node, self.imported)
        for what, names in CALLED.items():
            if full in names.split():
                yield what, ast.unparse(node)
        if node.attr in REACHED:
            yield REACHED[node.attr], ast.unparse(node)
        # Not of every object: vars of a record are read honestly.
        if node.attr == "__dict__" and _full(node.value, self.imported):
            yield "looks inside Python's objects", ast.unparse(node)

    def _assigned(self, node: ast.expr) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Name):
            yield from self._named(node.id)
            return
        place = node.value if isinstance(node, ast.Subscript) else node
        full = _full(place, self.imported)
        if isinstance(place, ast.Call) and getattr(place.func, "id", "") in ("vars", "globals", "locals"):
            yield "changes names by their text", ast.unparse(node)
        elif isinstance(node, ast.Subscript) and isinstance(place, ast.Name) and place.id in self.own:
            return  # an array of the student's own that is called as something imported, as scores
        elif full and not re.match(SETTINGS, full):
            yield "changes what belongs to a module", ast.unparse(node)
        elif isinstance(node, ast.Attribute) and re.fullmatch("__.*__", node.attr) and node.attr != "__doc__":
            yield "changes how an object works", ast.unparse(node)

    def _named(self, name: str) -> Iterator[tuple[str, str]]:
        if name in MEANT:
            yield "gives another meaning to a name of Python's", name

    def _called(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        first = node.args[0] if node.args else None
        if called in ("setattr", "delattr", "__setattr__", "__delattr__") and first:
            if _full(first, self.imported):
                yield "changes what belongs to a module", ast.unparse(node)
        elif called == "seed_of" and isinstance(first, ast.Constant) and first.value != "variant":
            yield "takes the seed of a name that it writes out", ast.unparse(node)
        elif called in READERS.split() and first and _outside(first):
            yield "reads a file of another folder", ast.unparse(node)
        elif called == "open" and not isinstance(first, ast.Constant | ast.Name | None):
            yield "opens a file whose name it computes", ast.unparse(node)


def _outside(path: ast.expr) -> bool:
    """Whether a text, or a part of a sum of texts, leads out of the notebook's folder."""
    parts = [node.value for node in ast.walk(path) if isinstance(node, ast.Constant)]
    return any(isinstance(part, str) and re.match(OUTSIDE, part) for part in parts)
