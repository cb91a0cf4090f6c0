"""Whole slides as a source: tiles, labels, patients, and a sentence for whatever is wrong with them."""

import logging
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medfl
from medfl.data.catalog import Catalog, pipeline_catalog, site_catalog
from medfl.data.partition import make_partition
from medfl.data.render import render, warn_of_resolution
from medfl.data.slides import slide_tiling
from medfl.errors import MedflError
from tests.datafiles import pipeline, site
from tests.slides import CLASSES, DATA, SETTINGS, annotate, box, cache, feature, pyramid, tissue
from tests.tiny import tiny

openslide = pytest.importorskip("openslide")
WORDS = ("tumour", "normal")


def made(root: Path | None, sites: list[dict[str, Any]] | None = None, **data: Any) -> Any:
    data = {"mode": "own", "size": 32, "mpp": 1.0, "cache": (root or Path()) / ".cache", **data}
    entries = sites or [site("here")]
    train = [entry for entry in entries if entry.get("role") != "held_out"]
    held_out = [entry for entry in entries if entry.get("role") == "held_out"]
    return pipeline(train, held_out, WORDS, source="slides", root=root, **data)


def read(root: Path, **data: Any) -> Catalog:
    own = {key: data.pop(key) for key in ("labels", "mpp_of_site") if key in data}
    entry = site("here", labels=own.get("labels", {}))
    if "mpp_of_site" in own:
        entry["mpp"] = own["mpp_of_site"]
    plan = made(root, [entry], **data)
    return site_catalog(plan, plan.train_sites[0])


def refused(root: Path, **data: Any) -> str:
    with pytest.raises(MedflError) as error:
        read(root, **data)
    return str(error.value)


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder of two slides of one patient each: one annotated, with both classes, one with a label."""
    root = tmp_path / "ward"
    root.mkdir()
    drawn = pyramid(root / "a.tif", tissue(256, 320, (0, 0, 320, 256)))
    annotate(drawn, feature("tumour", box(0, 0, 160, 256)), feature("normal", box(160, 0, 100, 256)))
    pyramid(root / "b.tif", tissue(128, 128, (0, 0, 128, 64), seed=1))
    (root / "slides.csv").write_text("slide,patient,label\na,P1,\nb,P2,normal\n")
    return root


def test_tiles_have_the_labels_that_were_drawn_and_the_patients_of_the_table(ward: Path) -> None:
    catalog = read(ward)
    classes = np.array(catalog.classes)[catalog.labels]
    groups = np.array(catalog.group_names)[catalog.groups]
    assert sorted(zip(groups, classes, strict=True)) == [
        *[("P1", "normal")] * 24,  # 3 of 10 columns, 8 rows; the next column is covered by an eighth
        *[("P1", "tumour")] * 40,
        *[("P2", "normal")] * 8,
    ]
    assert catalog.references[5] == "a.tif#160,0,32"
    assert catalog.names[5] == "normal/a.tif/x160-y000"
    assert catalog.source.left_out(catalog.references) == [
        "Left out: 16 tiles of tissue that no class's regions cover by more than half."
    ]


def test_a_reference_reads_openslides_pixels(ward: Path) -> None:
    catalog = read(ward)
    for reference in (catalog.references[3], catalog.references[-1]):
        name, _, place = reference.partition("#")
        x, y, side = map(int, place.split(","))
        region = openslide.OpenSlide(str(ward / name)).read_region((x, y), 0, (side, side)).convert("RGB")
        assert np.array_equal(catalog.source.read(reference), np.asarray(region))


def test_a_site_is_rendered_at_the_models_scale_whatever_its_scanners(ward: Path) -> None:
    shutil.rmtree(ward / ".cache", ignore_errors=True)
    (ward / "slides.csv").write_text("slide,patient,label,mpp\na,P1,,\nb,P2,normal,0.5\n")
    plan = made(ward, [site("here", role="held_out") | {"mpp": 0.25}], size=32)
    (share,) = make_partition(plan).sites
    assert {reference.rpartition(",")[2] for reference in share.references} == {"32", "64"}
    store = render(plan, plan.all_sites[0], share)
    assert store.images.shape == (len(share.rows), 32, 32, 3)
    assert store.mpp == 1.0
    assert store.slides is not None
    of_slide = [reference.rpartition("#")[0] for reference in share.references]
    assert [store.slide_names[slide] for slide in store.slides] == of_slide
    assert len(set(of_slide)) == 2
    assert np.array_equal(store.images[0], share.readers[0]())
    warn_of_resolution(plan, plan.all_sites)


def test_a_second_start_opens_no_slide_and_a_change_is_seen(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    look = slide_tiling.look_at
    monkeypatch.setattr(slide_tiling, "look_at", lambda task: opened.append(task.path.name) or look(task))
    first = read(ward)
    assert sorted(opened) == ["a.tif", "b.tif"]
    assert read(ward).references == first.references
    assert len(opened) == 2
    annotate(ward / "a.tif", feature("tumour", box(0, 0, 320, 256)))
    assert len(read(ward).references) == 88
    assert opened[2:] == ["a.tif"]
    note = next((ward / ".cache" / "slides" / "tiles").iterdir())
    note.write_text(note.read_text().replace("32", "31", 1))
    read(ward, tile={"per_slide_max": 5})
    assert len(opened) <= 4  # a damaged note is not believed


def test_the_most_of_a_slide_are_drawn_by_its_name(ward: Path) -> None:
    catalog = read(ward, tile={"per_slide_max": 10})
    assert [sum(reference.startswith(name) for reference in catalog.references) for name in "ab"] == [10, 8]
    assert catalog.references == read(ward, tile={"per_slide_max": 10}).references
    assert "54 tiles above `data.tile.per_slide_max`" in catalog.source.left_out([])[1]


def test_overlap_and_the_least_tissue(ward: Path) -> None:
    assert len(read(ward, tile={"overlap": 16}).references) > 3 * len(read(ward).references)
    annotate(ward / "a.tif", feature("tumour", box(0, 0, 320, 256)))
    pyramid(ward / "a.tif", tissue(256, 320, (0, 0, 48, 256)))
    for least, count in ((0.1, 16), (0.9, 8)):
        references = read(ward, tile={"min_tissue": least}).references
        assert sum(reference.startswith("a.tif") for reference in references) == count


def test_words_are_mapped_and_dropped(ward: Path) -> None:
    annotate(ward / "a.tif", feature("Tu", box(0, 0, 160, 256)), feature("Nekrose", box(160, 0, 160, 256)))
    catalog = read(ward, labels={"Tu": "tumour", "Nekrose": None})
    assert len(catalog.dropped) == 40
    assert len(catalog.references) == 48
    assert 'the annotation or label "Nekrose"' in refused(ward, labels={"Tu": "tumour"})


def test_what_is_wrong_with_annotations_is_said(ward: Path) -> None:
    annotate(ward / "a.tif", feature("tumour", box(0, 0, 200, 256)), feature("normal", box(100, 0, 100, 256)))
    assert "a.geojson: 100% of the regions of normal or of tumour lie under" in refused(ward)
    annotate(ward / "a.tif", feature("tumour", box(5000, 0, 200, 256)))
    assert "a.tif (its annotation a.geojson lies wholly outside of its 320 x 256 pixels" in refused(ward)
    (ward / "a.geojson").write_text("{")
    assert "a.tif (its annotation a.geojson is damaged: no JSON" in refused(ward)
    (ward / "a.geojson").rename(ward / "c.geojson")
    assert "c.geojson is of no slide" in refused(ward)


def test_damaged_slides_are_named_and_left_out_if_asked(ward: Path, caplog: pytest.LogCaptureFixture) -> None:
    (ward / "c.tif").write_bytes(b"")
    (ward / "slides.csv").write_text("slide,patient,label\na,P1,\nb,P2,normal\nc,P3,normal\n")
    message = refused(ward)
    assert "1 of 3 slides in" in message
    assert "c.tif (zero bytes); mend or remove them, or set `data.tile.skip_damaged: true`" in message
    with caplog.at_level(logging.WARNING):
        catalog = read(ward, tile={"skip_damaged": True})
    assert len(catalog.references) == 72
    assert "site here: 1 slide left out: c.tif (zero bytes)" in caplog.text
    assert "Left out: 1 slide that cannot be tiled (c.tif: zero bytes)." in catalog.source.left_out([])


def test_a_slide_without_a_resolution_is_named_until_one_is_stated(ward: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(ward / "b.tif", tissue(128, 128, (0, 0, 128, 64), seed=1), tile=(64, 64))
    assert "b.tif (it does not say its microns per pixel; state them in the column mpp of slides.csv" in refused(ward)
    assert read(ward, mpp_of_site=0.5).references[-1].endswith(",64")
    (ward / "slides.csv").write_text("slide,patient,label,mpp\na,P1,,\nb,P2,normal,0.25\n")
    assert read(ward, tile={"min_tissue": 0.4}).references[-1] == "b.tif#0,0,128"


def test_patients_have_to_be_known(ward: Path) -> None:
    (ward / "slides.csv").write_text("slide,label\nb,normal\n")
    assert "nothing says whose slides 2 of 2 are (a.tif, b.tif); write" in refused(ward)
    assert read(ward, source_groups="filename").group_names == ("a.tif", "b.tif")
    assert read(ward, source_groups="ignore").groups_unknown
    assert "`data.source_groups` names" in refused(ward, source_groups=str(ward / "x.csv"))


def test_what_is_missing_is_said(ward: Path) -> None:
    for name in ("a.geojson", "slides.csv"):
        (ward / name).unlink()
    assert "none of 2 slides in" in refused(ward)
    (ward / "slides.csv").write_text("slide,patient,label\na,P1,normal\n")
    assert "which the pipeline does not state; add `data.mpp`" in refused(ward, mpp=None)
    assert "1 slide without an annotation or a label (b.tif)" in read(ward).source.left_out([])[0]
    assert "no tile of 1 slides" in refused(ward, size=256, mpp=2.0)
    assert "no slide in" in refused(ward / ".cache")


def test_a_table_gives_slides_to_sites(ward: Path) -> None:
    (ward / "slides.csv").write_text("slide,patient,label,site\na,P1,,north\nb,P2,normal,south\n")
    plan = made(ward, [site("north", role="held_out"), site("south", role="held_out")])
    partition = make_partition(plan)
    assert [share.group_names for share in partition.sites] == [["P1"], ["P2"]]
    assert "no row of slides.csv is of this site; its sites are north, south" in refused(ward)
    with pytest.raises(MedflError, match="gives slides to sites, and the pipeline deals them out"):
        pipeline_catalog(made(ward, mode="dealt"))


def test_a_copy_of_a_slide_at_two_sites_is_seen(ward: Path) -> None:
    other = ward.parent / "other"
    shutil.copytree(ward, other)
    entries = [site(name, root, "slides", role="held_out") for name, root in (("one", ward), ("two", other))]
    with pytest.raises(MedflError, match=r"the tile .*#\d+,\d+,32 is in two places, site one \(test\) and site two"):
        make_partition(made(ward, entries))


def test_a_link_out_of_the_folder_is_told(ward: Path, tmp_path: Path) -> None:
    catalog = read(ward)
    assert catalog.source.outside(catalog.references) is None
    (ward / "b.tif").rename(tmp_path / "b.tif")
    (ward / "b.tif").symlink_to(tmp_path / "b.tif")
    assert str(catalog.source.outside(catalog.references)).startswith("b.tif#")
    assert catalog.source.absent(["a.tif#0,0,32", "none.tif#0,0,32"]) == ["none.tif#0,0,32"]


def test_a_source_travels_between_processes(ward: Path) -> None:
    catalog = read(ward)
    tile = catalog.source.read(catalog.references[0])
    assert np.array_equal(pickle.loads(pickle.dumps(catalog.source)).read(catalog.references[0]), tile)


def test_an_absent_extra_is_one_sentence(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    assert 'install it with `pip install "medfl-pathology[slides]"`' in refused(ward)


def test_generated_slides_are_dealt_and_a_site_cannot_bring_them(tmp_path: Path) -> None:
    catalog = pipeline_catalog(pipeline([site("a")], classes=CLASSES, slides=SETTINGS, cache=cache(), **DATA))
    assert len(catalog.group_names) == SETTINGS["patients"]
    assert min(np.bincount(catalog.labels)) > 40
    assert len({reference.rpartition(",")[2] for reference in catalog.references}) == 2  # two scanners
    assert "`data.root` is missing" in refused_without_root()


def refused_without_root() -> str:
    plan = pipeline([site("here")], source="slides", mode="own", mpp=1.0, classes=WORDS)
    with pytest.raises(MedflError) as error:
        site_catalog(plan, plan.train_sites[0])
    return str(error.value)


def test_a_federated_run_over_generated_slides(tmp_path: Path) -> None:
    plan = tiny(
        name="slides",
        task={"classes": CLASSES},
        data=DATA | {"slides": SETTINGS, "cache": str(cache())},
        sites={"generate": {"count": 2, "held_out": 1, "dirichlet_alpha": 50.0, "stain_strength": 0.3}},
    )
    result = medfl.run(plan, out=tmp_path / "run")
    assert sorted(result.summary["sites"]) == ["held-out-01", "site-01", "site-02"]
    assert result.summary["mpp"] == 2.0
    rows = (tmp_path / "run" / "allocation.csv").read_text().splitlines()
    assert ".tif#" in rows[1]
    held_out = result.summary["sites"]["held-out-01"]
    assert held_out["n"] > held_out["slides"]["n"] == held_out["patients"]["n"] == held_out["n_groups"]
