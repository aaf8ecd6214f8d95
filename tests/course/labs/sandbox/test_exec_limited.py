"""The program that takes on limits and becomes another: limits hold, and it needs the standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nnopt_lib.course.labs.sandbox import exec_limited

ASK = (
    "import json, os, resource; mask = os.umask(0)\n"
    "print(json.dumps([resource.getrlimit(resource.RLIMIT_FSIZE), mask, os.getuid()]))"
)


def run(uid: str, limits: dict[str, int], *command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-I", "-S", exec_limited.__file__, uid, json.dumps(limits), *command]
    return subprocess.run(words, capture_output=True, text=True)


def test_limits_that_the_system_knows_hold_and_others_are_passed_over():
    done = run("-", {"FSIZE": 4096, "UNHEARD_OF": 1}, sys.executable, "-c", ASK)
    limit, mask, uid = json.loads(done.stdout)
    assert (limit, mask, uid) == ([4096, 4096], 0o077, os.getuid())


def test_a_limit_is_never_raised_above_the_one_that_holds_already():
    inner = [sys.executable, exec_limited.__file__, "-", '{"FSIZE": 8192}', sys.executable, "-c", ASK]
    assert json.loads(run("-", {"FSIZE": 4096}, *inner).stdout)[0] == [4096, 4096]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_root_becomes_an_account_without_groups():
    # Not Python, and by its path: the account may be kept from the folder that this very Python is in.
    assert run("1500000001", {}, "/bin/sh", "-c", "id -u; id -G").stdout.split() == ["1500000001"] * 2


def test_the_status_is_the_commands():
    assert run("-", {}, "sh", "-c", "exit 7").returncode == 7
