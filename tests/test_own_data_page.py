"""The page for a hospital with data of its own: what its consoles show is what the commands print."""

import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medfl.cli.app import app
from medfl.errors import MedflError
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "bring-your-own-data.md").read_text(encoding="utf-8")
NORTHSIDE = {"adeno": "a", "normal": "n", "squamous": "s"}
"""Class folder -> the first letter of its eight patients."""


def images(folder, names, random):
    folder.mkdir(parents=True)
    for name in names:
        tint = random.integers(120, 230, 3)
        pixels = np.clip(tint + random.normal(0, 30, (96, 96, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=90)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """Three made-up hospitals as the page describes them: sub-folders, a CSV, a table of source groups."""
    place = tmp_path_factory.mktemp("desk")
    random = np.random.default_rng(0)
    for name, letter in NORTHSIDE.items():
        for patient in range(1, 9):
            images(
                place / f"data/northside/{name}/patient-{letter}{patient:02d}", [f"{i}.jpeg" for i in range(4)], random
            )
    for word in ("AC", "N"):
        images(
            place / "data/harbour/images" / word,
            [f"{word}{p:02d}_{i}.jpeg" for p in range(1, 9) for i in range(4)],
            random,
        )
    rows = [
        f"images/{word}/{word}{p:02d}_{i}.jpeg,{word},H{word}{p:03d}"
        for word in ("AC", "N")
        for p in range(1, 9)
        for i in range(4)
    ]
    (place / "data/harbour/patches.csv").write_text("path,label,source_group\n" + "\n".join(rows) + "\n")
    groups = ["label,filename,source_group"]
    for word in ("ACA", "NORM", "SCC"):
        names = [f"t{tile:02d}-{i}.jpeg" for tile in range(1, 7) for i in range(4)]
        images(place / "data/valley" / word, names, random)
        groups += [f"{word},{name},{word}-{name[:3]}" for name in names]
    (place / "data/valley/source_groups.csv").write_text("\n".join(groups) + "\n")
    return place


def shown(command):
    """What the page shows below a command, line by line."""
    block = re.search(rf"^\$ {re.escape(command)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block, f"the page no longer shows: {command}"
    return [line.rstrip() for line in block[1].rstrip().splitlines()]


def command(line, place):
    return CliRunner().invoke(app, line.replace("/data/", f"{place}/data/").split()[1:])


def printed(line, place):
    done = command(line, place)
    assert done.exit_code == 0, done.exception
    lines = done.output.replace(f"{place}/data", "/data").rstrip().splitlines()
    return [line.rstrip() for line in lines]


def relabel(file, labels):
    text = file.read_text()
    for word, label in labels.items():
        text = re.sub(rf"^  {word}: .*$", f"  {word}: {label}", text, flags=re.MULTILINE)
    file.write_text(text)


def test_from_folders_to_a_dry_run_that_names_a_damaged_image(hospitals, monkeypatch):
    monkeypatch.chdir(hospitals)
    for line in (
        "medfl init site --data /data/northside",
        "medfl init site --data /data/harbour/patches.csv --name harbour",
    ):
        assert printed(line, hospitals) == shown(line)
    printed("medfl init site --data /data/valley", hospitals)
    relabel(hospitals / "northside.yaml", {"adeno": "adenocarcinoma"})
    relabel(hospitals / "harbour.yaml", {"AC": "adenocarcinoma", "N": "normal"})
    relabel(hospitals / "valley.yaml", {"ACA": "adenocarcinoma", "NORM": "normal", "SCC": "squamous"})
    for line in (
        "medfl init pipeline --train northside.yaml --train harbour.yaml --held-out valley.yaml",
        "medfl data check hospitals.yaml",
    ):
        assert printed(line, hospitals) == shown(line)
    (hospitals / "data/northside/adeno/patient-a01/broken.jpeg").touch()
    line = "medfl run hospitals.yaml --dry-run"
    done = command(line, hospitals)
    assert isinstance(done.exception, MedflError)
    assert f"medfl: {done.exception}".replace(f"{hospitals}/data", "/data") == shown(line)[-1]
