"""The package is clean under ruff and mypy --strict, and its rooms import downwards only."""

import ast
import subprocess
import sys

from tests.paths import ROOT

# From the ground up; a room may import itself and any room to its left.
ROOMS = (  # noqa: SIM905
    "errors memory seeds clock config metrics model protocol data methods loading server trust workbench training "
    "members site transport federation asynchronous arms runs background privacy prepare closing summary tracking "
    "report pipeline engines evaluation export registration study console planning commands cli __main__"
).split()


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_ruff():
    for command in (["check", "."], ["format", "--check", "."]):
        done = run("ruff", *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_strict():
    done = run("mypy", "--strict", "medfl", "benchmarks")
    assert done.returncode == 0, done.stdout + done.stderr


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_rooms_import_downwards_only():
    found = []
    for path in sorted((ROOT / "medfl").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "medfl":
            continue
        here = ROOMS.index(room_of(module))
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("medfl"):
                names = [node.module] if node.module != "medfl" else [f"medfl.{a.name}" for a in node.names]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.startswith("medfl.")]
            found += [f"{module} -> {n}" for n in names if ROOMS.index(room_of(n)) > here]
    assert not found, "\n".join(found)


def test_only_the_engines_know_flare():
    outside = [p for p in (ROOT / "medfl").rglob("*.py") if p.parent.name != "engines"]
    assert not [str(p) for p in outside if "import nvflare" in p.read_text() or "from nvflare" in p.read_text()]


def test_files_stay_readable():
    long = {str(p): n for p in (ROOT / "medfl").rglob("*.py") if (n := len(p.read_text().splitlines())) > 330}
    assert not long, long
