"""Idle threads sleep soon, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest

from medfl.idle_threads import BRIEFLY, VARIABLES, wait_briefly, waiting


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)


def test_they_sleep_soon_where_nobody_says_otherwise():
    assert waiting() == "idle threads wait as their libraries do"
    wait_briefly()
    assert os.environ.items() >= BRIEFLY.items()
    assert waiting() == "idle threads sleep soon"


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_what_the_user_says_stays(name, monkeypatch):
    monkeypatch.setenv(name, "active")
    wait_briefly()
    assert {n: os.environ.get(n) for n in VARIABLES} == {n: "active" if n == name else None for n in VARIABLES}
    assert waiting() == f"idle threads: {name}=active"


@pytest.mark.parametrize("module", ["medfl.cli.app", "benchmarks"])
def test_the_command_line_and_the_benchmarks_say_so_before_torch_is_loaded(module):
    script = f"import sys, os, {module}; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{BRIEFLY['GOMP_SPINCOUNT']} False\n"
