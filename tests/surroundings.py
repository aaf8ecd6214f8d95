"""A user's machine set up for other work: settings, plugins and startup files that a chapter must not see."""

from __future__ import annotations

import nbformat

STARTUP = "import builtins; builtins.seen = getattr(builtins, 'seen', []) + [{!r}]\n"
# What a kernel shows of its surroundings, and what it shows where it sees none.
CELLS = {
    "import builtins, matplotlib, sys, warnings; getattr(builtins, 'seen', 'nothing')": "'nothing'",
    'matplotlib.rcParams["lines.linewidth"], "inline" in matplotlib.get_backend()': "(1.5, True)",
    "sys.flags.optimize, sys.warnoptions": "(0, [])",
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def set_up_kernels_for_other_work(folder, monkeypatch):
    """A profile of IPython, a startup file of Python, a style of Matplotlib, switches of Python."""
    ipython = folder / "home" / ".ipython" / "profile_default"
    write(ipython / "startup" / "00.py", STARTUP.format("IPython's startup file"))
    for name in ("ipython_config", "ipython_kernel_config"):
        lines = [STARTUP.format(name).strip()]
        write(ipython / f"{name}.py", f"c.InteractiveShellApp.exec_lines = {lines}\n")
    style = write(folder / "home" / ".config" / "matplotlib" / "matplotlibrc", "lines.linewidth: 77\n")
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(ipython.parent))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(folder / "home" / ".jupyter"))
    monkeypatch.setenv("PYTHONSTARTUP", str(write(folder / "startup.py", STARTUP.format("PYTHONSTARTUP"))))
    monkeypatch.setenv("MATPLOTLIBRC", str(style))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::ImportWarning")


def set_up_pytest_for_other_work(folder, monkeypatch):
    """Plugins installed and named, options, settings of an outer folder, and modules in the current one."""
    failing = "raise ImportError('of other work')\n"
    write(folder / "conftest.py", failing)
    write(folder / "pytest.ini", "[pytest]\naddopts = --of-other-work\n")
    write(folder / "plugins" / "other_plugin.py", failing)
    write(folder / "plugins" / "other-1.dist-info" / "METADATA", "Name: other\nVersion: 1\n")
    write(folder / "plugins" / "other-1.dist-info" / "entry_points.txt", "[pytest11]\nother = other_plugin\n")
    monkeypatch.syspath_prepend(folder / "plugins")
    monkeypatch.setenv("PYTHONPATH", str(folder / "plugins"), prepend=":")
    monkeypatch.setenv("PYTEST_PLUGINS", "other_plugin")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--of-other-work")
    for name in ("pytest.py", "nbval.py"):
        write(folder / "current" / name, failing)
    monkeypatch.chdir(folder / "current")


def notebook():
    """A notebook of CELLS with the outputs that it has in no surroundings at all."""
    made = nbformat.v4.new_notebook()
    for number, (code, shown) in enumerate(CELLS.items(), start=1):
        output = nbformat.v4.new_output("execute_result", {"text/plain": shown}, execution_count=number)
        made.cells.append(nbformat.v4.new_code_cell(code, execution_count=number, outputs=[output]))
    return made
