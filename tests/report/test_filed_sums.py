"""A dossier that was filed: each change of a file is named, and a list that leads elsewhere is refused."""

import hashlib

import pytest

from medfl.errors import MedflError
from medfl.report.dossier.filed_sums import differences, dossier_in, stated_sums

FILES = {"index.html": "page", "croissant/north.json": "{}"}


@pytest.fixture
def filed(tmp_path):
    folder = tmp_path / "dossier"
    (folder / "croissant").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    lines = (f"{hashlib.sha256(text.encode()).hexdigest()}  {name}" for name, text in FILES.items())
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    return folder


def test_whole_by_its_own_name_or_by_that_of_its_run(filed):
    assert dossier_in(filed) == dossier_in(filed.parent) == filed
    assert stated_sums(filed).keys() == FILES.keys()
    assert differences(filed) == []


def test_each_kind_of_change_is_named(filed):
    (filed / "index.html").write_text("other")
    (filed / "croissant" / "north.json").unlink()
    (filed / "croissant" / "south.json").write_text("{}")
    (filed / "SHA256SUMS.sig").write_bytes(b"sig")
    assert differences(filed) == [
        "croissant/north.json is missing",
        "index.html was changed",
        "croissant/south.json was added",
    ]


@pytest.mark.parametrize(
    "line", ["x", "a" * 64 + "  ../other", "a" * 64 + "  /etc/passwd", "a" * 64 + "  ", "g" * 64 + "  a"]
)
def test_a_line_that_is_none_is_named(filed, line):
    with (filed / "SHA256SUMS").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(MedflError, match="SHA256SUMS, line 3"):
        differences(filed)


def test_where_there_is_no_dossier(tmp_path):
    with pytest.raises(MedflError, match="holds no dossier"):
        dossier_in(tmp_path)
