"""What the documents show runs: blocks of Python, cheap commands. What is made from docstrings is not stale."""

import importlib.util
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import medfl
from medfl.cli.app import app
from medfl.data.sources import source_registry
from medfl.methods.core import registry
from medfl.metrics import figures
from tests.paths import ROOT
from tests.test_docs import PAGES, command_lines
from tests.tiny import write_tiny

DOCS = ROOT / "docs"


def module_at(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def execute(sources, where):
    """One after another, in one namespace; a traceback names the page and the block."""
    names = {"__name__": where}
    for number, source in enumerate(sources, 1):
        exec(compile(source, f"<{where}, block {number}>", "exec"), names)
    return names


@pytest.fixture
def apart(monkeypatch, tmp_path):
    """A folder of its own, and registries that are as before afterwards."""
    source_registry.source_class("folder")  # the built-in ones are registered once
    monkeypatch.setattr(source_registry, "SOURCES", dict(source_registry.SOURCES))
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))
    monkeypatch.setattr(figures, "FIGURES", figures.FIGURES)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("apart")
def test_every_way_to_extend_runs():
    names = execute(blocks(DOCS / "extend.md"), "extend.md")
    assert "damped" in registry.known_methods()
    assert names["measured"].sites


@pytest.mark.usefixtures("apart")
def test_the_notebook_runs_from_top_to_bottom():
    notebook = json.loads((DOCS / "notebooks" / "library.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], {cell["cell_type"] for cell in notebook["cells"]}) == (4, {"code", "markdown"})
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = execute(cells, "library.ipynb")
    assert list(names["runs"]["method"]) == ["fedavg", "ecgr"]


def test_pages_and_notebook_are_what_is_made_from_docstrings_and_pages():
    for file, made in module_at(DOCS / "generate.py").FILES.items():
        assert file.read_text(encoding="utf-8") == made(), f"{file.name} is stale; run python docs/generate.py"


RUNNABLE = (
    *("methods", "backbones", "cache ls", "cache verify", "report", "data check", "sites preview"),
    *("evaluate", "predict", "resume", "run"),
)
PIPELINE = re.compile(r"PIPELINE|hospitals\.yaml|pipelines/(?:quickstart|lc25000_small|features|mitosis)\.yaml")
RUN = re.compile(r"\$?RUN|runs/[\w-]+|models:/quickstart@champion")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A working directory with a small pipeline, its run and a folder of images in the places that documents name."""
    place = tmp_path_factory.mktemp("desk")
    write_tiny(place, name="quickstart", training={"rounds": 1}).rename(place / "plan.yaml")
    medfl.run(place / "plan.yaml", out=place / "run")
    (place / "images").mkdir()
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(place / "images" / "one.png")
    (place / "patients.csv").write_text("file,patient\none.png,p1\n")
    return place


def on_the_desk(arguments):
    """A documented command as it can be given there; None where it needs more than a run that is there."""
    shown = " ".join(arguments)
    pages = {
        "--sites",
        "--jobs",
        "--engine",
        "--help",
        "--adapt",
        "--attention",
        "--heatmaps",
        "sites.train=[../site_configs",
    }
    if not shown.startswith(RUNNABLE) or any(word in shown for word in pages) or shown in RUNNABLE:
        return None
    if shown.startswith("run ") and "--dry-run" not in arguments:
        return None
    words = ["plan.yaml" if PIPELINE.fullmatch(word) else "run" if RUN.fullmatch(word) else word for word in arguments]
    words = [{"DIR": "images", "TABLE": "patients.csv"}.get(word, word) for word in words]
    if words[0] == "report" and words[1] != "run":
        return None  # of a study
    if "--rounds" in words:
        words[words.index("--rounds") + 1] = "2"  # the run has one
    if "--site" in words:
        words[words.index("--site") + 1] = "held-out-01"
    if words[0] == "sites" and "--out" in words:
        words[words.index("--out") + 1] = "sites.png"
    return tuple(words)


DOCUMENTED = {
    on_the_desk(arguments): page.name
    for page in PAGES
    for arguments, _ in command_lines(page.read_text(encoding="utf-8"))
}
DOCUMENTED.pop(None)
WHOLE = [words for words in DOCUMENTED if not any(set(words) < set(other) for other in DOCUMENTED)]
"""Those that no longer one holds."""


@pytest.mark.parametrize("words", sorted(WHOLE), ids=" ".join)
def test_documented_commands_do_what_they_say(words, desk, monkeypatch):
    monkeypatch.chdir(desk)
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, f"{DOCUMENTED[words]}: {done.output}{done.exception or ''}"
