"""What a model says of a folder, per slide and per patient, where a table says whose the files are."""

import csv

import numpy as np
import pytest

from medfl.cli.commands import predict_command
from medfl.errors import MedflError
from medfl.pipeline import evaluate_model, trained_model
from medfl.pipeline.predict_patients import read_owners, score_units
from tests.bags import table

FACTS = {"classes": ["tumour", "normal"], "malignant": ["tumour"]}
SCORED = [("a/1.png", [0.9, 0.1]), ("a/2.png", [0.1, 0.9]), ("b/1.png", [0.3, 0.7]), ("c.png", [0.2, 0.8])]


def test_files_come_together_to_slides_and_patients(tmp_path):
    owners = read_owners(
        table(
            tmp_path / "t.csv", "File;Slide;Patient", "a\\1.png;s1;P1", "a/2.png;s1;P1", "b/1.png;s2;P1", "c.png;s3;=P2"
        )
    )
    made = score_units(SCORED, owners, FACTS)
    assert made["slides"] == [
        ["slide", "files", "p_tumour", "p_normal"],
        ["s1", "2", "0.500000", "0.500000"],
        ["s2", "1", "0.300000", "0.700000"],
        ["s3", "1", "0.200000", "0.800000"],
    ]
    assert made["patients"][1:] == [["=P2", "1", "0.200000", "0.800000"], ["P1", "3", "0.433333", "0.566667"]]
    top = score_units(SCORED, owners, FACTS | {"patients": {"top": 2}})
    assert top["patients"][2] == ["P1", "3", "0.600000", "0.400000"]


def test_slides_come_together_to_patients(tmp_path):
    owners = read_owners(table(tmp_path / "t.csv", "slide,patient", "x,P1", "y,P1", "z,P2"))
    made = score_units([("x", [0.2, 0.8]), ("y", [0.4, 0.6])], owners, FACTS)
    assert made == {"patients": [["patient", "slides", "p_tumour", "p_normal"], ["P1", "2", "0.300000", "0.700000"]]}


def test_a_patient_of_tiled_slides_is_scored_by_all_tiles_as_the_run_measured_it(tmp_path):
    owners = read_owners(table(tmp_path / "slides.csv", "slide,patient,label", "x,P1,tumour", "b/y.svs,P1,", "z,P2,"))
    tiles = {
        name: np.array([[p, 1 - p] for p in own]) for name, own in (("x.tif", [0.9, 0.1, 0.2]), ("b/y.svs", [0.6]))
    }
    scored = [(name, own.mean(axis=0).tolist()) for name, own in tiles.items()]
    made = score_units(scored, owners, FACTS, tiles)
    assert made["patients"][1:] == [["P1", "2", "0.450000", "0.550000"]]
    top = score_units(scored, owners, FACTS | {"patients": {"top": 2}}, tiles)
    assert top["patients"][1:] == [["P1", "2", "0.750000", "0.250000"]]
    with pytest.raises(MedflError, match=r"2 of 2 have no row in .*, the first is a/x.tif"):
        score_units([("a/x.tif", [0.5, 0.5]), ("b/x.tif", [0.5, 0.5])], owners, FACTS)


def test_what_is_wrong_with_the_table_is_said(tmp_path):
    for lines, says in (
        (("file,patient", "a/1.png,P1", "a/1.png,P2"), "line 3: a/1.png stands twice"),
        (("file,who", "a/1.png,P1"), "patient"),
    ):
        with pytest.raises(MedflError, match=says):
            read_owners(table(tmp_path / "t.csv", *lines))
    with pytest.raises(MedflError, match=r"3 of 4 have no row in .*, the first is a/2.png"):
        score_units(SCORED, read_owners(table(tmp_path / "t.csv", "file,patient", "a/1.png,P1")), FACTS)


def test_the_tables_lie_beside_that_of_files_which_is_there_first(tmp_path, monkeypatch):
    class Model:
        reads_bags, facts = False, FACTS

    monkeypatch.setattr(trained_model, "find_model", lambda reference: Model)
    monkeypatch.setattr(evaluate_model, "predict", lambda *args, **more: SCORED)
    owners = table(tmp_path / "t.csv", "file,patient", *(f"{name},P{name[0]}" for name, _ in SCORED))
    predict_command.predict("r", "images", str(tmp_path / "scores.csv"), patients=str(owners))
    with (tmp_path / "scores.patients.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["patient"], row["files"]) for row in rows] == [("Pa", "2"), ("Pb", "1"), ("Pc", "1")]
    (tmp_path / "scores.csv").unlink()
    table(owners, "file,patient", "a/1.png,P1")
    with pytest.raises(MedflError, match="no row"):
        predict_command.predict("r", "images", str(tmp_path / "scores.csv"), patients=str(owners))
    assert (tmp_path / "scores.csv").is_file()
    with pytest.raises(MedflError, match="state --out"):
        predict_command.predict("r", "images", patients=str(owners))
