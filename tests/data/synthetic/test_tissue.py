"""Generated tissue: determinism, layout, an atomic folder, and classes told by architecture rather than colour."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medfl.data.optics import EOSIN, HAEMATOXYLIN, stain_matrix, to_density
from medfl.data.synthetic import tissue
from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies, draw_tile, tile_side, tissue_digest, write_tissue
from medfl.errors import MedflError

SMALL = {"classes": ("colon_n", "lung_scc"), "tiles_per_class": 3, "copies": 2, "size": 32, "seed": 9}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tissue(tmp_path_factory.mktemp("tissue") / "root", **SMALL)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("label", TISSUE_CLASSES)
def test_a_tile_depends_on_its_seed_class_and_index_only(label: str) -> None:
    tile = draw_tile(label, 3, 7, 48)
    assert tile.shape == (tile_side(48), tile_side(48), 3)
    assert tile.dtype == np.uint8
    draw_tile(label, 3, 6, 48)
    assert np.array_equal(tile, draw_tile(label, 3, 7, 48))
    for other in (draw_tile(label, 3, 8, 48), draw_tile(label, 4, 7, 48)):
        assert np.abs(tile.astype(int) - other).mean() > 10


def test_more_copies_begin_with_the_same_copies() -> None:
    four = draw_copies("lung_aca", 0, 0, 40, 4)
    assert four.shape == (4, 40, 40, 3)
    assert np.array_equal(four[:2], draw_copies("lung_aca", 0, 0, 40, 2))
    assert all(not np.array_equal(four[a], four[b]) for a in range(4) for b in range(a))


@pytest.mark.parametrize("size", [32, 33, 64, 97])
def test_no_rotation_brings_the_border_in(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tile_side(size) >= size * math.sqrt(2) * math.cos(math.radians(45 - 25))
    side = tile_side(size)
    monkeypatch.setattr(tissue, "draw_tile", lambda *_: np.full((side, side, 3), 200, np.uint8))
    assert np.all(draw_copies("lung_n", 0, 0, size, 60) == 200)  # whatever lies outside the tile would be black


@pytest.mark.parametrize("label", TISSUE_CLASSES)
def test_colours_are_mixtures_of_two_stains(label: str) -> None:
    """In density space a tile lies near the plane of haematoxylin and eosin, with both of them present."""
    tiles = np.stack([draw_tile(label, 2, index, 64) for index in range(4)])
    amounts = to_density(tiles) @ np.linalg.inv(stain_matrix(HAEMATOXYLIN, EOSIN))
    haematoxylin, eosin, residual = np.moveaxis(amounts, -1, 0)
    assert np.quantile(haematoxylin, 0.97) > 0.8  # nuclei
    assert np.quantile(eosin, 0.8) > 0.25  # stroma or cytoplasm
    assert np.abs(residual).mean() < 0.25 * amounts[..., :2].sum(axis=-1).mean()
    assert np.quantile(tiles.mean(axis=-1), 0.99) > 190  # some of the light of the empty slide comes through


def test_classes_differ_by_architecture_and_not_by_colour_alone() -> None:
    """Split by tile, a linear model on the mean and spread of colour does badly; one on the texture of patches
    stripped of colour, brightness and contrast does well. Chance is 0.2."""
    tiles = 36
    patches = np.concatenate([draw_copies(c, 11, k, 48, 1) for c in TISSUE_CLASSES for k in range(tiles)])
    labels, index = np.repeat(np.arange(5), tiles), np.tile(np.arange(tiles), 5)
    colour = np.concatenate([patches.mean(axis=(1, 2)), patches.std(axis=(1, 2))], axis=1)
    texture = np.array([texture_of(patch) for patch in patches])

    def accuracy(features: np.ndarray) -> float:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        scores = [
            model.fit(features[index % 3 != fold], labels[index % 3 != fold]).score(
                features[index % 3 == fold], labels[index % 3 == fold]
            )
            for fold in range(3)
        ]
        return float(np.mean(scores))

    assert accuracy(colour) < 0.65
    assert accuracy(texture) > max(0.65, accuracy(colour) + 0.1)


def texture_of(patch: np.ndarray) -> np.ndarray:
    grey = patch.astype(np.float32).mean(axis=-1)
    grey = (grey - grey.mean()) / grey.std()
    features = [np.quantile(grey, [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])]
    for sigma in (0.8, 1.5, 3.0):
        fine = cv2.GaussianBlur(grey, (0, 0), sigma)
        band = fine - cv2.GaussianBlur(grey, (0, 0), 2 * sigma)
        features += [np.quantile(band, [0.02, 0.1, 0.5, 0.9, 0.98]), [band.std(), np.hypot(*np.gradient(fine)).mean()]]
    return np.concatenate(features)


def test_the_folder_is_lc25000s_own(written: Path) -> None:
    names = [f"colon_image_sets/colon_n/colonn{k}.jpeg" for k in range(1, 7)]
    names += [f"lung_image_sets/lung_scc/lungscc{k}.jpeg" for k in range(1, 7)]
    assert set(files_of(written)) == {*names, "source_groups.csv", "tissue.json"}
    with (written / "source_groups.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["label", "filename", "source_group"]
    assert {f"{r['label'].split('_')[0]}_image_sets/{r['label']}/{r['filename']}" for r in rows} == set(names)
    assert set(Counter(r["source_group"] for r in rows).values()) == {SMALL["copies"]}
    assert rows[2] == {"label": "colon_n", "filename": "colonn3.jpeg", "source_group": "colon_n-0001"}


def test_lc25000_calls_adenocarcinoma_of_the_colon_colonca(tmp_path: Path) -> None:
    write_tissue(tmp_path / "t", classes=["colon_aca"], tiles_per_class=1, copies=1, size=32)
    assert (tmp_path / "t" / "colon_image_sets" / "colon_aca" / "colonca1.jpeg").is_file()


def test_files_hold_the_copies_of_their_group(written: Path) -> None:
    patch = np.asarray(Image.open(written / "lung_image_sets" / "lung_scc" / "lungscc6.jpeg"))
    assert np.abs(draw_copies("lung_scc", 9, 2, 32, 2)[1].astype(int) - patch).mean() < 3


def test_workers_and_the_number_of_tiles_change_no_file(written: Path, tmp_path: Path) -> None:
    more = write_tissue(tmp_path / "more", **{**SMALL, "tiles_per_class": 5}, workers=1)
    few = {name: data for name, data in files_of(written).items() if name.endswith("jpeg")}
    assert {name: files_of(more)[name] for name in few} == few


def test_a_complete_folder_is_returned_at_once(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tissue, "draw_tile", lambda *_: pytest.fail("drawn again"))
    assert write_tissue(written, **{**SMALL, "classes": ["lung_scc", "colon_n"]}) == written


def test_other_parameters_in_an_existing_folder_are_an_error(written: Path) -> None:
    before = files_of(written)
    with pytest.raises(MedflError, match="copies 2 instead of 4"):
        write_tissue(written, **{**SMALL, "copies": 4})
    assert files_of(written) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(MedflError, match="no generated tissue"):
        write_tissue(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_write_leaves_nothing_and_can_be_repeated(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = tissue.draw_tile

    def interrupted(label: str, seed: int, index: int, size: int) -> np.ndarray:
        if label == "lung_scc":
            raise KeyboardInterrupt
        return draw(label, seed, index, size)

    monkeypatch.setattr(tissue, "draw_tile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_tissue(tmp_path / "root", **SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "root").mkdir()  # an empty folder is as good as none
    assert files_of(write_tissue(tmp_path / "root", **SMALL)) == files_of(written)


def test_a_process_that_was_slower_takes_what_is_there(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process renames its complete folder into place while this one still draws."""
    draw, root = tissue.draw_tile, tmp_path / "root"

    def overtaken(label: str, seed: int, index: int, size: int) -> np.ndarray:
        if (label, index) == ("lung_scc", 2):
            root.mkdir()
            (root / "tissue.json").write_bytes((written / "tissue.json").read_bytes())
        return draw(label, seed, index, size)

    monkeypatch.setattr(tissue, "draw_tile", overtaken)
    assert write_tissue(root, **SMALL, workers=1) == root
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_an_unknown_class_names_the_five() -> None:
    with pytest.raises(
        MedflError, match=r'no class "lung_acc".*"lung_aca".*name lung_aca, lung_n, lung_scc, colon_aca, colon_n'
    ):
        write_tissue(Path("never"), classes=["lung_acc"], tiles_per_class=1)
    with pytest.raises(MedflError, match="no class"):
        draw_tile("breast", 0, 0, 32)


@pytest.mark.parametrize("key", ["tiles_per_class", "copies", "size"])
def test_figures_below_one_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(MedflError, match=key):
        write_tissue(tmp_path / "t", **{**SMALL, key: 0})


def test_a_root_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedflError, match="cannot be written to"):
        write_tissue(tmp_path / "file" / "root", **SMALL)


def test_the_digest_tells_every_parameter_and_the_drawing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = tissue_digest(SMALL)
    assert digest == tissue_digest({**SMALL, "classes": ["lung_scc", "colon_n"]})
    changes: dict[str, object] = {"classes": ["lung_scc"], "tiles_per_class": 4, "copies": 3, "size": 33, "seed": 8}
    digests = {tissue_digest({**SMALL, key: value}) for key, value in changes.items()}
    assert len(digests | {digest}) == 6
    monkeypatch.setattr(tissue, "VERSION", tissue.VERSION + 1)
    assert tissue_digest(SMALL) != digest
    assert int(digest, 16) >= 0
    assert len(digest) == 12


def test_the_manifest_states_the_parameters(written: Path) -> None:
    manifest = json.loads((written / "tissue.json").read_text())
    assert manifest == {"version": tissue.VERSION, **{**SMALL, "classes": ["colon_n", "lung_scc"]}}
