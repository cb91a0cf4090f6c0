"""Near-copies between sites and splits are caught where they leak."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from medfl.data.duplicates import leakage
from medfl.data.duplicates.leakage import CopiesLeak
from medfl.data.partition import make_partition
from medfl.data.synthetic.tissue import draw_copies
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.datafiles import write_image


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory) -> Path:
    """A folder with hospitals.yaml: a training and a held-out site with data of their own, no tile at both."""
    root = tmp_path_factory.mktemp("hospitals")
    for site, seed in (("northside", 0), ("valley", 1)):
        for label in ("lung_n", "lung_scc"):
            for index in range(6):
                for number, copy in enumerate(draw_copies(label, seed, index, 96, 2)):
                    write_image(root / site / label / f"p{index}" / f"{number}.png", copy)
    for site in ("northside", "valley"):
        mapping = {"name": site, "description": site, "data": {"source": "folder", "root": site}}
        (root / f"{site}.yaml").write_text(yaml.safe_dump(mapping))
    made = {
        "name": "hospitals",
        "task": {"classes": ["lung_n", "lung_scc"]},
        "data": {"source": "folder", "mode": "own", "size": 96},
        "sites": {"train": ["northside.yaml"], "held_out": ["valley.yaml"]},
        "model": {"backbone": "resnet18"},
        "training": {"rounds": 1},
    }
    (root / "hospitals.yaml").write_text(yaml.safe_dump(made))
    return root


def test_a_pipeline_without_copies_across_its_places_passes(hospitals, cli):
    said = cli("data", "leak", hospitals / "hospitals.yaml")
    assert "None of 28 test patches has a near-copy in training data (48 images searched)" in said
    assert "LEAK" not in said


def test_copies_planted_at_another_site_leak(hospitals, tmp_path, cli, capsys, monkeypatch):
    """At the held-out site, a third copy of every tile of lung_scc that the training site holds."""
    monkeypatch.setenv("COLUMNS", "150")
    out = tmp_path / "pairs.csv"
    root = shutil.copytree(hospitals, tmp_path / "planted")
    for index in range(6):
        copy = draw_copies("lung_scc", 0, index, 96, 3)[2]
        write_image(root / "valley" / "lung_scc" / f"stranger{index}" / "0.png", copy)
    file = root / "hospitals.yaml"
    with pytest.raises(CopiesLeak) as caught:
        cli("data", "leak", file, "--out", out)
    assert caught.value.exit_code == 1
    said = capsys.readouterr().out
    train = next(share for share in make_partition(load_pipeline(file)).sites if share.site == "northside")
    paths = [Path(train.locations[p]) for p in train.splits["train"]]
    tiles = {path.parent for path in paths if "lung_scc" in str(path)}
    assert f"{len(tiles)} of " in str(caught.value)
    assert "test patches have a near-copy in training data; within one folder name the CSV" in str(caught.value)
    (row,) = [line for line in said.splitlines() if "northside/train - valley/test" in line]
    assert row.split()[3:] == [str(2 * len(tiles)), str(2 * len(tiles)), str(len(tiles)), "0", "LEAK"]
    lines = out.read_text().splitlines()
    leaks = [line.split(",") for line in lines[1:] if line.startswith("yes")]
    assert len(leaks) == 2 * len(tiles)
    assert {(line[1], line[2], line[4], line[5]) for line in leaks} == {("northside", "train", "valley", "test")}
    assert all("stranger" in line[6] and Path(line[3]).is_file() for line in leaks)
    assert len(lines) - 1 > len(leaks) or len(tiles) == 6  # the other tiles' copies cross as well, without leaking


def test_an_unreadable_image_is_refused_or_left_out_as_the_pipeline_says(hospitals, tmp_path, cli):
    root = shutil.copytree(hospitals, tmp_path / "damaged")
    file = root / "hospitals.yaml"
    (root / "valley" / "lung_n" / "p0" / "0.png").write_bytes(b"")
    with pytest.raises(MedflError, match=r"1 of 48 images cannot be read: .*0\.png \(zero bytes\); replace or remove"):
        cli("data", "leak", file)
    assert "left out" in cli("data", "leak", file, "--set", "data.on_bad_image=skip")


def test_the_check_of_data_searches_for_copies_and_for_two_labels(hospitals, tmp_path, cli, capsys, monkeypatch):
    root = shutil.copytree(hospitals, tmp_path / "planted")
    file = root / "hospitals.yaml"
    searches = []
    search = leakage.find_leaks
    monkeypatch.setattr(
        leakage, "find_leaks", lambda *args, **keys: searches.append(search(*args, **keys)) or searches[-1]
    )
    for index in range(6):
        if index % 2:
            shutil.rmtree(root / "valley" / "lung_scc" / f"p{index}")
        copy = draw_copies("lung_scc", 0, index, 96, 3)[2]  # of a tile that the other site trains on
        write_image(root / "valley" / "lung_scc" / f"stranger{index}" / "0.png", copy)
    copy = draw_copies("lung_scc", 1, 0, 96, 3)[2]  # at one site under two labels
    write_image(root / "valley" / "lung_n" / "p0" / "copy.png", copy)
    for label in ("lung_n", "lung_scc"):  # nothing is seen in it: known by its bytes
        write_image(root / "valley" / label / "p0" / "blank.png", np.full((96, 96, 3), 255, np.uint8))
    with pytest.raises(CopiesLeak, match="test patches have a near-copy in training data"):
        cli("data", "check", file)
    said = capsys.readouterr().out
    assert "Disjoint" in said
    assert "LEAK" in said
    valley = root / "valley"
    blank = [f"valley/test {valley}/{label}/p0/blank.png" for label in ("lung_n", "lung_scc")]
    assert f"Two labels (lung_n, lung_scc): {blank[0]}\n  = {blank[1]}" in said
    assert "Pairs of one image, or of near-copies, under two labels: 3; correct one of the two" in said
    assert "near-copy" not in cli("data", "check", file, "--no-copies")
    assert len(searches) == 1
    monkeypatch.setattr(leakage, "find_leaks", lambda *args, **keys: searches[0])
    said = cli("data", "check", file, "--set", "data.source_groups=ignore")  # said to be leaky: no failure
    assert "test patches have a near-copy in training data" in said
