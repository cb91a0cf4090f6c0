"""Files that go along with a model stand alone there."""

import ast
import importlib
import sys

import numpy as np

from medfl.data.carried_code import RENDERING, STAIN, carried
from medfl.data.synthetic.tissue import draw_copies
from medfl.data.transforms import serving
from medfl.export.monai_bundle import SCRIPTS


def imports(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def test_no_file_imports_medfl_or_what_is_not_carried():
    for modules in (RENDERING, STAIN, SCRIPTS, (*SCRIPTS, *RENDERING)):
        files = carried(modules, "elsewhere")
        assert "medfl" not in {name for text in files.values() for name in imports(text)}
        for text in files.values():
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("elsewhere"):
                    assert f"{node.module.split('.')[1]}.py" in files


def test_they_do_there_what_they_do_here(tmp_path, monkeypatch):
    package = tmp_path / "carried_for_a_test"
    package.mkdir()
    for name, text in {"__init__.py": "", **carried(RENDERING, package.name)}.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    there = importlib.import_module(f"{package.name}.transforms")
    patches, specs = draw_copies("lung_n", 0, 0, 48, 2), ["NormalizeHEStainsd", "GaussNoise"]
    assert np.array_equal(there.serving(specs)(patches), serving(specs)(patches))
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]
