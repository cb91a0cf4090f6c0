"""The Pythons that pyproject.toml claims: each reads the source, and gives the same rounds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.tiny import write_tiny

CLAIMED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
READ = """
import pathlib, sys
for file in pathlib.Path(sys.argv[1]).rglob("*.py"):
    compile(file.read_text(encoding="utf-8"), str(file), "exec")
print("%d.%d" % sys.version_info[:2])
"""


def interpreter(version: str) -> str:
    """A Python of this version on this machine, on the path or kept by pyenv; skips the test where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"there is no Python {version} on this machine")


def test_the_claimed_versions_begin_where_installation_does():
    assert CLAIMED == ["3.11", "3.12", "3.13"]
    assert f'requires-python = ">={CLAIMED[0]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("version", CLAIMED)
def test_it_reads_the_source_without_a_warning(version):
    command = [interpreter(version), "-W", "error", "-c", READ, str(ROOT / "medfl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == version, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("version", CLAIMED[1:])
def test_it_gives_the_same_rounds(version, tmp_path):
    """In an environment of its own, which uv makes of what it has."""
    if shutil.which("uv") is None:
        pytest.skip("there is no uv")
    pipeline = str(write_tiny(tmp_path, method=["ecgr"]))
    uv = ["uv", "run", "--isolated", "--no-dev", "--offline", "--project", str(ROOT), "--python", interpreter(version)]
    runs = {}
    for name, start in ((version, uv), ("here", [sys.executable, "-m"])):
        command = [*start, "medfl", "run", pipeline, "--out", str(tmp_path / name)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        if (
            name == version
            and done.returncode
            and re.search("offline|connectivity is disabled", done.stderr + done.stdout)
        ):
            pytest.skip(f"uv has not all packages for Python {version}: {done.stderr.splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        runs[name] = (tmp_path / name / "rounds.jsonl").read_bytes()
    assert runs[version] == runs["here"]
