"""The medfl that runs here as a wheel: whole, as its record says, the same each time, or a sentence."""

import base64
import csv
import hashlib
import io
import subprocess
import zipfile
from importlib.metadata import PackageNotFoundError

import pytest

from medfl.engines import own_wheel as module
from medfl.engines.own_wheel import own_wheel, pinned_requirements
from medfl.errors import MedflError
from medfl.runs.versions import installed_version
from tests.paths import ROOT


def test_it_holds_the_package_and_its_metadata_as_the_record_says():
    name, content = own_wheel()
    assert name == f"medfl_pathology-{installed_version()}-py3-none-any.whl"
    archive = zipfile.ZipFile(io.BytesIO(content))
    folder = f"medfl_pathology-{installed_version()}.dist-info"
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "medfl").rglob("*.py")}
    files = set(archive.namelist())
    assert sources | {"medfl/py.typed", "medfl/report/templates/page.html"} <= files
    inside = {name.removeprefix(f"{folder}/") for name in files if name.startswith(folder)}
    assert inside == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert not [name for name in files if "__pycache__" in name or not name.startswith(("medfl/", folder))]
    rows = list(csv.reader(io.StringIO(archive.read(f"{folder}/RECORD").decode())))
    assert {row[0] for row in rows} == files
    for path, digest, size in rows:
        if digest:
            own = base64.urlsafe_b64encode(hashlib.sha256(archive.read(path)).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={own}", str(len(archive.read(path))))
    assert "Name: medfl-pathology\n" in archive.read(f"{folder}/METADATA").decode()
    assert own_wheel.__wrapped__() == (name, content)


def test_without_an_installation_there_is_a_sentence(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", absent)
    with pytest.raises(MedflError, match=r"no wheel of medfl-pathology can be made.*`uv sync` in a copy"):
        own_wheel.__wrapped__()


def test_what_it_needs_is_pinned_with_what_the_extra_adds_and_without_build_labels(monkeypatch):
    pins = pinned_requirements("nvflare")
    for name in ("torch", "torchvision", "timm", "nvflare", "grpcio", "sympy"):
        assert pins[name] == installed_version(name).partition("+")[0]
    assert pins["medfl-pathology"] == installed_version()
    assert not {"onnx", "opacus", "pytest", "ruff"} & pins.keys()


@pytest.mark.slow
def test_it_is_the_wheel_that_is_built(tmp_path):
    subprocess.run(["uv", "build", "-q", "--wheel", "-o", str(tmp_path), str(ROOT)], check=True)
    (built,) = tmp_path.glob("*.whl")
    theirs, ours = zipfile.ZipFile(built), zipfile.ZipFile(io.BytesIO(own_wheel()[1]))
    assert set(theirs.namelist()) == set(ours.namelist())
    assert [n for n in ours.namelist() if ours.read(n) != theirs.read(n) and not n.endswith("/RECORD")] == []
