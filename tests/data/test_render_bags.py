"""A site's bags as one array: what it holds, when it is found again, and what is refused in a sentence."""

import numpy as np
import pytest
import torch
import yaml

from medfl.data import render_bags as module
from medfl.data.bag_store import FeatureOrigin
from medfl.data.partition import make_partition
from medfl.data.render_bags import bag_warnings, render_bags
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.bags import DIM, TOOLS, bag, h5, table, write_layout

PATIENTS = 9


def write_site(root, tool="STAMP", slides=None):
    """Two slides of most patients, of two classes, and the table."""
    made = {f"s{row}": bag(row, 1 + row % 3) for row in range(2 * PATIENTS)} if slides is None else slides
    write_layout(root, tool, made)
    rows = [f"p{row // 2},s{row},{'ab'[row // 2 % 2]}" for row in range(2 * PATIENTS)]
    table(root / "slides.csv", "patient,slide,label", *rows)
    return root


def plan(folder, root, data=None, site=None, **model):
    raw = {
        "name": "bags",
        "task": {"classes": ["a", "b"]},
        "data": {"source": "features", "mode": "own", "cache": str(folder / "cache"), **(data or {})},
        "sites": {"train": [{"name": "north", "data": {"root": str(root)}, **(site or {})}]},
        "model": {"mil": "abmil", "dim": DIM, **model},
        "training": {"rounds": 1},
    }
    (folder / "p.yaml").write_text(yaml.safe_dump(raw))
    return load_pipeline(folder / "p.yaml")


def store_of(pipeline):
    [share] = make_partition(pipeline).sites
    return render_bags(pipeline, share, share.catalog.source)


@pytest.mark.parametrize("tool", TOOLS)
def test_each_layout_becomes_the_same_bags(tmp_path, tool):
    store = store_of(plan(tmp_path, write_site(tmp_path / "site", tool)))
    assert len(store.labels) == 2 * PATIENTS
    for row, name in enumerate(store.names):
        number = int(name.removeprefix(f"{'ab'[store.labels[row]]}/s"))
        own = store.features[store.offsets[row] : store.offsets[row + 1]]
        np.testing.assert_allclose(own, bag(number, 1 + number % 3), atol=2e-3 if tool == "STAMP" else 0)
        assert store.group_names[store.groups[row]] == f"p{number // 2}"
    assert isinstance(store.features, np.memmap)
    assert store.features.dtype == (np.float16 if tool == "STAMP" else np.float32)
    encoder = "" if tool == "CLAM" else "uni"
    assert store.origin == FeatureOrigin(encoder, "" if tool == "CLAM" else "256 px at 0.5 mpp")
    groups = [set(store.groups[rows]) for rows in store.splits.values()]
    assert all(groups)
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]


def test_a_store_is_found_again_and_changed_data_are_not_it(tmp_path, monkeypatch):
    root = write_site(tmp_path / "site")
    pipeline = plan(tmp_path, root)
    before = store_of(pipeline)
    monkeypatch.setattr(module, "read_bag", lambda path: pytest.fail("read again"))
    assert store_of(pipeline).digest == before.digest
    h5(root / "uni-1f2e/s3.h5", bag(99, 1).astype(np.float16), name="feats")
    monkeypatch.undo()
    assert store_of(pipeline).digest != before.digest


def test_damaged_slides_are_listed_or_left_out(tmp_path):
    root = write_site(tmp_path / "site")
    file = root / "uni-1f2e/s0.h5"
    file.write_bytes(file.read_bytes()[:500])
    h5(root / "uni-1f2e/s5.h5", np.full((2, DIM), np.nan, np.float16), name="feats")
    with pytest.raises(MedflError, match=r"^site north: 2 of 18 slides cannot be read: .*s0.h5 \(it is no whole HDF5"):
        store_of(plan(tmp_path, root))
    store = store_of(plan(tmp_path, root, {"on_bad_image": "skip"}))
    assert (store.skipped, len(store.labels)) == (2, 16)
    row = store.names.index("a/s8")
    np.testing.assert_allclose(store.features[store.offsets[row] : store.offsets[row + 1]], bag(8, 3), atol=2e-3)
    [sentence] = bag_warnings(make_partition(plan(tmp_path, root)))
    assert sentence.startswith("site north: 1 of 18 slides cannot be read, the first is")


def test_a_site_of_nothing_but_damaged_files(tmp_path):
    root = write_site(tmp_path / "site")
    for file in (root / "uni-1f2e").iterdir():
        file.write_bytes(b"")
    with pytest.raises(MedflError, match="site north: none of its 18 slides can be read"):
        store_of(plan(tmp_path, root, {"on_bad_image": "skip"}))


@pytest.mark.parametrize(
    ("features", "attrs", "reason"),
    [
        (bag(0, 2, DIM + 1), {"extractor": "uni"}, r"different numbers a tile: 6 \(17 slides\), 7 \(1 slides\)"),
        (bag(0, 2), {"extractor": "conch"}, r"different encoders: uni \(17 slides\), conch \(1 slides\)"),
    ],
)
def test_features_of_two_kinds_at_one_site(tmp_path, features, attrs, reason):
    root = write_site(tmp_path / "site")
    h5(root / "uni-1f2e/s4.h5", features.astype(np.float16), name="feats", attrs=attrs)
    with pytest.raises(MedflError, match=rf"^site north: its features have {reason}"):
        store_of(plan(tmp_path, root))


def test_features_of_another_length_than_the_model_reads(tmp_path):
    root = write_site(tmp_path / "site")
    with pytest.raises(MedflError, match=r"site north: its features of uni have 6 numbers.*`model.dim` is 8"):
        store_of(plan(tmp_path, root, dim=8))


def test_a_site_may_say_what_made_its_features(tmp_path):
    root = write_site(tmp_path / "site")
    site = {"data": {"root": str(root), "features": {"encoder": "uni_v1"}}}
    assert store_of(plan(tmp_path, root, site=site)).origin.encoder == "uni_v1"


def test_a_slide_under_two_names_is_told(tmp_path):
    root = write_site(tmp_path / "site", "slideflow")
    torch.save(torch.from_numpy(bag(1, 2)), root / "s7.pt")
    (root / "s7.pt").write_bytes((root / "s1.pt").read_bytes())
    [sentence] = bag_warnings(make_partition(plan(tmp_path, root)))
    assert "has the same content as" in sentence


def test_pictures_are_refused_in_a_sentence(tmp_path):
    from medfl.data.render import render

    pipeline = plan(tmp_path, write_site(tmp_path / "site"))
    [share] = make_partition(pipeline).sites
    with pytest.raises(MedflError, match="gives the features of slides, and no pictures"):
        render(pipeline, pipeline.train_sites[0], share)
