"""The package is clean under ruff and mypy --strict; its rooms import downwards only, and a name means one thing."""

import ast
import subprocess
import sys
from collections import defaultdict

import pytest

from tests.paths import ROOT

# From the ground up. A room is a package or a loose module of medfl; it imports itself and rooms of the floors below.
FLOORS = (
    {"plain_text", "idle_threads"},
    {"errors", "seeds", "messages", "metrics"},
    {"config", "model"},
    {"data", "methods"},
    {"site", "federation"},
    {"runs"},
    {"tracking", "report"},
    {"pipeline"},
    {"engines", "study", "export"},
    {"cli", "testing"},
)
ENTRY = "__main__"  # `python -m medfl`, which is cli
FILE_LINES, FUNCTION_LINES = 330, 60


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_ruff():
    for command in (["check", "."], ["format", "--check", "."]):
        done = run("ruff", *command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_mypy_strict():
    done = run("mypy", "--strict", "medfl", "benchmarks")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module; a package goes by its own name."""
    trees = {}
    for path in sorted((ROOT / "medfl").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


@pytest.fixture(scope="module")
def imports(modules) -> dict[str, set[str]]:
    """Module -> modules of medfl that it imports, anywhere in it: also inside functions and for type checking only."""
    found = {}
    for name, tree in modules.items():
        targets = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medfl"):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {module for module in inner if module in modules}
                if not inner <= modules.keys():
                    targets.add(node.module)
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names if alias.name.startswith("medfl.")}
        found[name] = targets - {name, "medfl"}
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def floor_of(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room_of(module) in rooms)


def test_the_rooms_are_those_of_the_plan(modules):
    assert {room_of(name) for name in modules if name != "medfl"} == set().union(*FLOORS) | {ENTRY}


def test_rooms_import_downwards_only(imports):
    wrong = [
        f"{module} -> {target}"
        for module, targets in imports.items()
        if module not in ("medfl", f"medfl.{ENTRY}")
        for target in targets
        if room_of(target) != room_of(module) and floor_of(target) >= floor_of(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle(imports):
    """What imports nothing that is left is taken away until nothing is left: what stays is in a circle or above one."""
    left = {module: set(targets) for module, targets in imports.items()}
    while free := {module for module, targets in left.items() if not targets & left.keys()}:
        for module in free:
            del left[module]
    assert not left, {module: sorted(targets & left.keys()) for module, targets in left.items()}


def test_the_rooms_around_the_flare_package_do_not_know_it(modules):
    flare = "medfl.engines.nvflare"
    for name, tree in modules.items():
        names = {
            name
            for node in ast.walk(tree)
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            )
        }
        knows = any(str(other).split(".")[0] == "nvflare" for other in names if other)
        assert not knows or name.startswith(flare), name


def test_a_variable_is_called_by_a_noun(modules):
    """No participle says what a value is."""
    participles = {"found", "known", "told", "stated", "held"}
    wrong = []
    for name, tree in modules.items():
        for node in ast.walk(tree):
            bound = node.arg if isinstance(node, ast.arg) else ""
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound = node.id
            if bound in participles:
                wrong.append(f"{name}:{node.lineno} {bound}")
    assert not wrong, "\n".join(wrong)


def test_a_module_name_means_one_thing(modules):
    places = defaultdict(list)
    for name in modules:
        if not name.startswith("medfl.cli.commands."):  # they are named after the commands
            places[name.rpartition(".")[2]].append(name)
    twice = {last: names for last, names in places.items() if len(names) > 1}
    # `site` is the room and the class in it; `study.report` is the report of a study beside the room `report`.
    allowed = {"site": {"medfl.site", "medfl.site.site"}, "report": {"medfl.report", "medfl.study.report"}}
    assert not {last: names for last, names in twice.items() if set(names) != allowed.get(last)}, twice


def test_a_class_name_means_one_thing(modules):
    places = defaultdict(list)
    for name, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert not {cls: names for cls, names in places.items() if len(names) > 1}


def test_tests_mirror_the_package(modules):
    """`tests/<room>/` exists for rooms only; a test of one module is named after it."""
    rooms = set().union(*FLOORS)
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"benchmarks", "fixtures"} <= rooms


def test_files_and_functions_stay_readable(modules):
    long = {}
    for path in (ROOT / "medfl").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > FILE_LINES:
            long[str(path)] = lines
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (length := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
                long[f"{name}.{node.name}"] = length
    assert not long


# Rooms whose floats end in a record: what Python's `sum` makes of floats has changed with 3.12, and math.fsum has not.
EXACT = ("metrics", "model", "methods", "site", "federation")
WHOLE_NUMBERS = {
    "sum((figures['n'] for figures in scored))",
    "sum((slot.numel for slot in self.maskable))",
    "sum(samples.values())",
    "sum(server.samples.values())",
    "sum(channels)",
    "sum(value)",  # of a confusion matrix
}


def test_floats_are_summed_by_fsum(modules):
    sums = {
        f"{name}: {ast.unparse(node)}"
        for name, tree in modules.items()
        if name.split(".")[1:2] and name.split(".")[1] in EXACT
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sum"
    }
    others = sorted(entry for entry in sums if entry.partition(": ")[2] not in WHOLE_NUMBERS)
    assert not others, "math.fsum adds floats alike in every Python; name sums of whole numbers above"
