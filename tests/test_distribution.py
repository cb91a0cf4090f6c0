"""What medfl is called where packages are installed; `medfl` on the public index is somebody else's."""

import re
import tomllib
from importlib.metadata import version

from medfl.errors import DISTRIBUTION, install_extra
from medfl.runs.versions import installed_version
from tests.paths import ROOT
from tests.test_docs import tracked

INSTALLER = r"(?:pip3? (?:install|download|show)|uv (?:add|pip install|tool install)|uvx)"
OLD = re.compile(rf"{INSTALLER}\b[^\n`&;|]*[ \"'=]medfl(?![\w/-])|(?<![\w.-])medfl\[|\bmedfl *[=~><]= *\d")
WARNED = "not `pip install medfl` from the public package index"


def test_the_name_is_that_of_the_project_and_its_version_the_installed_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION == "medfl-pathology"
    assert set(project["scripts"]) == {"medfl"}
    assert installed_version() == version(DISTRIBUTION)
    assert installed_version("torch") == version("torch")


def test_an_extra_is_added_to_what_is_installed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert install_extra("onnx") == (
        '`pip install "medfl-pathology[onnx]"`, or `uv sync --extra onnx` in a copy of the repository'
    )
    used = {
        name
        for path in (ROOT / "medfl").rglob("*.py")
        for name in re.findall(r"install_extra\(['\"](\w+)['\"]\)", path.read_text(encoding="utf-8"))
    }
    assert used == set(extras)


def test_the_search_finds_the_old_forms():
    old = ('pip install "medfl[nvflare]"', "pip install medfl", "uv add medfl==2.0", "medfl[privacy]", "medfl==0.1")
    assert [text for text in old if not OLD.search(text)] == []
    new = ("pip install uv && uv run medfl run x", 'pip install "medfl-pathology[onnx]"', "pip install ./medfl/x.whl")
    assert [text for text in new if OLD.search(text)] == []


def test_no_sentence_installs_somebody_elses_package():
    """In code, docs, pipelines and what kits are made of; CHANGELOG.md and what version 0.1 left say what was."""
    found = []
    for path in tracked():
        place = path.relative_to(ROOT)
        skipped = place.parts[0] == "tests" or place.name == "CHANGELOG.md" or place.suffix in (".csv", ".svg", ".png")
        if skipped or not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", errors="replace").replace(WARNED, "")
        found += [f"{place}: {match[0]}" for match in OLD.finditer(text)]
    assert not found


def test_the_readme_says_that_nothing_is_published():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert WARNED in readme
    assert "nothing is published under that name yet" in readme
