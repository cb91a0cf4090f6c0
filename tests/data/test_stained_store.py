"""A site's patches in another stain: kept, found again, of another digest; or as they are, which is said."""

import dataclasses

import numpy as np
import pytest

from medfl.data.normalise import FIXED, METHODS, normalise, stain_statistics
from medfl.data.patch_store import PatchStore
from medfl.data.stained_store import in_stain, own_rows, store_statistics
from medfl.data.store_pieces import write_store
from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies

REFERENCE = FIXED["reinhard"].numbers


@pytest.fixture
def store() -> PatchStore:
    images = np.concatenate([draw_copies(label, 2, 0, 32, 2) for label in TISSUE_CLASSES])
    splits = {"train": np.arange(6), "test": np.arange(6, 10)}
    return PatchStore("north", images, np.zeros(10, np.int64), np.arange(10), splits, "a-digest")


@pytest.mark.parametrize("method", METHODS)
def test_training_patches_say_how_all_are_changed(store, method):
    own = stain_statistics(store.images[:6], method)
    assert store_statistics(store, method) == own
    made = in_stain(store, FIXED[method].numbers)
    assert np.array_equal(made.images, normalise(store.images, own, FIXED[method]))
    assert made.digest != store.digest
    assert in_stain(store, ()) is store
    held_out = dataclasses.replace(store, splits={"test": np.arange(10)})
    assert own_rows(held_out).tolist() == list(range(10))


def test_it_is_kept_beside_the_patches_and_found_again(store, tmp_path, monkeypatch):
    folder = tmp_path / "stores" / ("0" * 32)
    write_store(folder, 32, "north", 10, lambda *_: iter([store.images]), {})
    kept = dataclasses.replace(store, folder=folder)
    made = in_stain(kept, REFERENCE)
    assert made.folder.parent == folder.parent
    assert made.folder != folder
    assert np.array_equal(made.images, in_stain(store, REFERENCE).images)
    assert made.digest == in_stain(store, REFERENCE).digest  # wherever it lies
    monkeypatch.setattr("medfl.data.stained_store.normalise", None)
    again = in_stain(kept, REFERENCE)
    assert again.folder == made.folder
    assert np.array_equal(again.images, made.images)
    monkeypatch.undo()
    assert in_stain(kept, [number * 1.01 for number in REFERENCE]).folder != made.folder


def test_a_site_without_stain_stays_as_it_is_and_says_so(store, caplog):
    empty = dataclasses.replace(store, images=np.full_like(store.images, 255))
    assert in_stain(empty, REFERENCE) is empty
    assert "site north: its patches have no stain to be measured: there is hardly any tissue" in caplog.text
    assert "not normalised" in caplog.text
