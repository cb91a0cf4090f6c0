"""A site file is proposed for a folder of slides, and a pipeline for such sites."""

from pathlib import Path

import pytest

from medfl.config import SiteConfig
from medfl.data.inspect_folder import inspect_folder
from medfl.data.slides.slide_inspection import holds_slides
from medfl.pipeline.propose_pipeline import Wishes, propose
from tests.slides import annotate, box, feature, generated, pyramid, tissue

pytest.importorskip("openslide")


def test_generated_slides_are_proposed_as_slides(tmp_path: Path) -> None:
    site, notes = inspect_folder(generated(), "ward")
    assert SiteConfig.model_validate(site).data.source == "slides"
    assert site["labels"] == {"colon_aca": "colon_aca", "colon_n": "colon_n"}
    assert notes[:2] == [
        "Found 14 slides, with regions or labels of colon_aca 7, colon_n 14.",
        "Microns per pixel: 2 (7), 1.76 (7).",
    ]
    assert notes[2].startswith("Source groups: 14 patients, from")
    file = tmp_path / "ward.yaml"
    labels = "labels: {colon_aca: colon_aca, colon_n: colon_n}"
    file.write_text(f"name: ward\n{labels}\ndata: {{source: slides, root: {generated()}}}\n")
    text, said = propose(Wishes("p", [file], []), tmp_path / "p.yaml")
    assert "source: slides\n  mode: own\n  size: 224\n  mpp: 0.5\n" in text
    assert not any("whole images are resized" in note for note in said)


def test_what_is_missing_is_noted(tmp_path: Path) -> None:
    drawn = pyramid(tmp_path / "a.tif", tissue(64, 64, (0, 0, 64, 64)))
    assert not holds_slides(tmp_path)  # such files are patches as a rule
    annotate(drawn, feature("Tumor", box(0, 0, 9, 9)))
    (tmp_path / "b.svs").write_bytes(b"")
    (tmp_path / "c.svs").write_bytes(b"x" * 99)
    (tmp_path / "c.json").write_text("[")
    assert holds_slides(tmp_path)
    site, notes = inspect_folder(tmp_path, "ward")
    assert site["labels"] == {"Tumor": "Tumor"}
    assert "Cannot be read: b.svs (zero bytes), c.svs (damaged: no JSON" in notes[2]
    assert notes[3] == "Without an annotation or a label: b.svs."
    assert "Not every slide has a patient" in notes[4]
