"""The documents' blocks of Python run, and what is made from docstrings and pages is what is there."""

import importlib.util
import json
import re

import pytest

from medfl.data.sources import source_registry
from medfl.methods.core import registry
from medfl.metrics import figures
from tests.paths import ROOT

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
