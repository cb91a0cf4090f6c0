"""Slides as bags: each with its label and patient, whatever was drawn on it."""

import numpy as np
import pytest

from medfl.data.catalog import site_catalog
from medfl.data.rgb import Unreadable
from medfl.data.sources.slide_bags import SlideBags
from medfl.errors import MedflError
from tests.datafiles import pipeline, site
from tests.encoders import ward
from tests.slides import annotate, box, feature, pyramid, tissue

pytest.importorskip("openslide")


def catalog_of(root, **data):
    tile = {"source": "slides", "mode": "own", "root": root, "size": 32, "mpp": 1.0, "cache": root / ".cache", **data}
    plan = pipeline([site("here")], classes=("tumour", "normal"), **tile)
    model = plan.model.model_copy(update={"mil": "abmil"})
    plan = plan.model_copy(update={"model": model})
    return site_catalog(plan, plan.train_sites[0])


def test_a_slide_is_one_item_with_its_label_its_patient_and_all_tiles_of_tissue(tmp_path):
    root = ward(tmp_path / "ward")
    annotate(root / "s0.tif", feature("Necrosis", box(0, 0, 20, 20)))
    catalog = catalog_of(root)
    assert isinstance(catalog.source, SlideBags)
    assert catalog.names == tuple(f"{'normal' if n % 2 else 'tumour'}/s{n}.tif" for n in (1, 3, 5, 0, 2, 4))
    assert [catalog.group_names[group] for group in catalog.groups] == ["P1", "P3", "P5", "P0", "P2", "P4"]
    assert catalog.labels.tolist() == [1, 1, 1, 0, 0, 0]
    tiles = catalog.source.bags["s0.tif"]
    assert list(zip(tiles.x, tiles.y, strict=True)) == [(0, 0), (32, 0), (0, 32), (32, 32)]
    assert catalog.source.left_out(catalog.references) == ["Left out: 1 slides without a label (bare.tif)."]
    with pytest.raises(Unreadable, match="no picture"):
        catalog.source.read("s0.tif")


def test_a_copy_is_the_same_slide_and_other_tiles_make_another_print(tmp_path):
    root = ward(tmp_path / "ward")
    source = catalog_of(root).source
    (root / "again.tif").write_bytes((root / "s0.tif").read_bytes())
    again = catalog_of(root).source
    assert again.identity("again.tif") == again.identity("s0.tif") == source.identity("s0.tif")
    fewer = catalog_of(root, tile={"per_slide_max": 2}).source
    assert source.fingerprints(["s0.tif"]) != fewer.fingerprints(["s0.tif"])
    assert fewer.bags["s0.tif"].undrawn == 2
    assert np.array_equal(fewer.bags["s0.tif"].x, catalog_of(root, tile={"per_slide_max": 2}).source.bags["s0.tif"].x)


def test_slides_without_labels_without_tissue_or_damaged_are_named(tmp_path):
    root = ward(tmp_path / "ward")
    pyramid(root / "s1.tif", tissue(128, 128))
    with pytest.raises(MedflError, match=r"1 of 7 slides .*s1.tif \(no tile of it holds enough tissue"):
        catalog_of(root)
    catalog = catalog_of(root, tile={"skip_damaged": True})
    assert "normal/s1.tif" not in catalog.names
    assert any("s1.tif" in sentence for sentence in catalog.source.left_out(catalog.references))
    (root / "slides.csv").write_text("slide,patient,label\ns0,P0,\n")
    with pytest.raises(MedflError, match=r"none of 7 slides .* has a label.*slides.csv"):
        catalog_of(root)
