"""Near-copies: found with the transformation that made them, linked into groups, caught where they leak."""

import functools
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from medfl.cli.app import app
from medfl.data.catalog import pipeline_catalog
from medfl.data.duplicates.group_folder import group_folder
from medfl.data.duplicates.keypoints import Keypoints, describe, describe_patches
from medfl.data.duplicates.leakage import CopiesLeak
from medfl.data.duplicates.near_duplicates import Pair, align, find_pairs, linked
from medfl.data.partition import make_partition
from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies, draw_tile, write_tissue
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.datafiles import needs_lc25000, pipeline, real_lc25000, write_image

SIZE = 112


def silent(step: str, done: int, total: int) -> None:
    assert 0 < done <= total, step


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def window(tile: np.ndarray, degrees: float, zoom: float, shift: float = 0, size: int = SIZE) -> np.ndarray:
    """The middle of a tile turned counter-clockwise in the plane of x to the right and y down, zoomed, then shifted."""
    middle, turn = (len(tile) - 1) / 2, np.deg2rad(degrees)
    matrix = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    offset = (size - 1) / 2 - matrix @ [middle, middle] + [shift, 0]
    return cv2.warpAffine(tile, np.column_stack([matrix, offset]), (size, size), flags=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def tile() -> np.ndarray:
    """A large tile, so that no window meets its border."""
    return draw_tile("colon_aca", 3, 0, 2 * SIZE)


@pytest.mark.parametrize(
    ("degrees", "zoom", "mirrored"),
    [(0, 1, True), (90, 1, False), (137, 1, True), (-25, 1.4, False), (180, 0.75, True)],
)
def test_a_copy_is_found_with_the_transformation_that_made_it(tile, degrees, zoom, mirrored):
    first = window(tile, 0, 1)
    second = window(tile[::-1] if mirrored else tile, degrees, zoom)
    (pair,) = find_pairs([describe(grey(first)), describe(grey(second))], silent)
    assert (pair.first, pair.second, pair.mirrored) == (0, 1, mirrored)
    assert abs((pair.turn - degrees + 180) % 360 - 180) < 1.5
    assert pair.zoom == pytest.approx(zoom, rel=0.03)
    # Both windows have one centre, and at these turns and zooms the smaller field hardly leaves the larger one,
    # except at 137 degrees: two equal squares turned by 47 share 1 / (1 + tan(21.5 deg)) of the longer half-diagonal.
    turned = np.deg2rad(min(degrees % 90, 90 - degrees % 90))
    shared = 1.0 if zoom != 1 else 2 / (1 + np.sin(turned) + np.cos(turned))
    assert pair.overlap == pytest.approx(shared, abs=0.05)


def test_another_stain_hides_nothing(tile):
    first = window(tile, 0, 1)
    other = (255 * (window(tile, 40, 1.1) / 255.0 * [0.8, 0.95, 1.0]) ** 1.5 * 0.9).astype(np.uint8)
    (pair,) = find_pairs([describe(grey(first)), describe(grey(other))], silent)
    assert pair.overlap > 0.75
    assert pair.turn == pytest.approx(40, abs=1.5)


def test_a_neighbour_shares_what_it_shares(tile):
    images = [describe(grey(window(tile, 0, 1, shift))) for shift in (0, SIZE / 2)]
    (pair,) = find_pairs(images, silent)
    assert pair.overlap == pytest.approx(0.5, abs=0.03)
    assert linked(2, [pair], 0.75).tolist() == [0, 1]
    assert linked(2, [pair], 0.4).tolist() == [0, 0]


def test_upside_down_is_what_the_mirrored_image_would_give(tile):
    image = grey(window(tile, 20, 1))
    turned, seen = describe(image).upside_down(), describe(np.ascontiguousarray(image[::-1]))
    near = np.abs(turned.places[:, None] - seen.places).max(axis=-1) < 0.2
    unlike = np.full(near.shape, 255)  # one place may have several keypoints, of different directions
    ours, theirs = near.nonzero()
    unlike[near] = np.abs(turned.descriptors[ours].astype(int) - seen.descriptors[theirs]).max(axis=-1)
    assert np.mean(unlike.min(axis=1) <= 12) > 0.8


def test_unrelated_tissue_is_not_linked_however_it_is_asked(tile):
    images = [
        describe(grey(draw_copies(label, 1, index, SIZE, 1)[0])) for label in TISSUE_CLASSES for index in range(4)
    ]
    for first in range(len(images)):
        for second in range(first):
            for mirrored in (False, True):
                assert align(images, second, first, mirrored) is None


def test_images_in_which_nothing_is_seen_have_no_copies():
    flat = describe(np.full((40, 60), 240, np.uint8))
    noise = describe(np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8))
    assert len(flat.places) == 0
    assert (flat.width, flat.height) == (60, 40)
    assert find_pairs([], silent) == []
    assert find_pairs([noise], silent) == []
    assert find_pairs([flat, flat, Keypoints.none()], silent) == []
    assert [(p.first, p.second) for p in find_pairs([flat, noise, flat, noise], silent)] == [(1, 3)]


def test_large_images_are_reduced_and_keep_their_shape():
    image = cv2.resize(grey(draw_tile("lung_n", 0, 0, SIZE)), (600, 300))
    seen = describe(image)
    assert (seen.width, seen.height) == (224, 112)
    assert 8 <= len(seen.places) <= 300
    assert seen.places.max(axis=0).tolist() <= [224, 112]


def test_groups_are_what_pairs_of_enough_overlap_connect():
    pairs = [Pair(a, b, overlap, 9, 0.0, 1.0, False) for a, b, overlap in [(4, 5, 0.9), (1, 4, 0.8), (0, 3, 0.74)]]
    assert linked(6, pairs, 0.75).tolist() == [0, 1, 2, 3, 1, 1]
    assert linked(6, pairs, 0.7).tolist() == [0, 1, 2, 0, 1, 1]
    assert linked(3, [], 0.5).tolist() == [0, 1, 2]


def test_only_images_of_different_places_are_compared(tile):
    images = [describe(grey(window(tile, degrees, 1))) for degrees in (0, 10, 20, 30)]
    pairs = find_pairs(images, silent, np.array([0, 0, 1, 1]))
    assert {(p.first, p.second) for p in pairs} == {(0, 2), (0, 3), (1, 2), (1, 3)}


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> Path:
    """5 classes x 3 tiles x 3 copies, and the truth in source_groups.csv."""
    root = tmp_path_factory.mktemp("copies") / "tissue"
    return write_tissue(root, classes=TISSUE_CLASSES, tiles_per_class=3, copies=3, size=96, seed=5)


def agreement(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Pairwise precision and recall."""
    upper = np.triu_indices(len(truth), 1)
    ours, theirs = (found[:, None] == found)[upper], (truth[:, None] == truth)[upper]
    return (ours & theirs).sum() / ours.sum(), (ours & theirs).sum() / theirs.sum()


def test_the_written_groups_are_the_tiles_and_are_read_by_a_pipeline(tissue, tmp_path, cli):
    out = tmp_path / "groups.csv"
    said = cli("data", "group", tissue, "--out", out)
    assert "Images: 45; groups: 15; groups of several images: 15, the largest of 3; images without a copy: 0" in said
    assert out.read_text().startswith("path,source_group\ncolon_image_sets/colon_aca/colonca1.jpeg,copies-")
    truth = pipeline_catalog(pipeline([], root=tissue, source="lc25000"))
    found = pipeline_catalog(pipeline([], root=tissue, source="lc25000", source_groups=out))
    assert found.names == truth.names
    assert not found.groups_unknown
    assert agreement(found.groups, truth.groups) == (1.0, 1.0)
    twice = tmp_path / "again.csv"
    cli("data", "group", tissue, "--out", twice)
    assert twice.read_bytes() == out.read_bytes()
    with pytest.raises(MedflError, match="exists already; name another file with --out"):
        cli("data", "group", tissue, "--out", out)


def test_a_tile_in_two_classes_is_linked_and_told(tmp_path, cli):
    one, two, other = (*draw_copies("lung_scc", 0, 0, 96, 2), draw_copies("lung_n", 0, 1, 96, 1)[0])
    write_image(tmp_path / "data" / "scc" / "p1" / "a.png", one)
    write_image(tmp_path / "data" / "aca" / "p2" / "b.png", two)
    write_image(tmp_path / "data" / "aca" / "p3" / "c.png", other)
    (tmp_path / "data" / "aca" / "broken.png").write_bytes(b"")
    out = tmp_path / "groups.csv"
    said = cli("data", "group", tmp_path / "data", "--out", out)
    assert "In several class folders: aca/p2/b.png and its copies (aca 1, scc 1)" in said
    assert "Cannot be read, a group of its own: aca/broken.png (zero bytes)" in said
    groups = dict(line.split(",") for line in out.read_text().split()[1:])
    assert groups["aca/p2/b.png"] == groups["scc/p1/a.png"]
    assert len(set(groups.values())) == 3


def test_folders_that_cannot_be_grouped_are_refused_in_a_sentence(tmp_path, cli):
    with pytest.raises(MedflError, match="there is no folder"):
        group_folder(tmp_path / "nowhere", 0.75, silent)
    with pytest.raises(MedflError, match=r"holds no image; images end in \.jpeg"):
        group_folder(tmp_path, 0.75, silent)
    (tmp_path / "a.jpeg").write_bytes(b"no image")
    with pytest.raises(MedflError, match=r"none of 1 images can be read, the first is a\.jpeg \(not an image\)"):
        group_folder(tmp_path, 0.75, silent)
    with pytest.raises(MedflError, match=r"cannot be written: No such file or directory; name another file with --out"):
        cli("data", "group", tmp_path, "--out", tmp_path / "none" / "groups.csv")
    write_image(tmp_path / "a.jpeg", draw_copies("lung_n", 0, 0, 96, 1)[0])
    assert "Images: 1; groups: 1; groups of several images: 0, the largest of 1; images without a copy: 1" in cli(
        "data", "group", tmp_path, "--out", tmp_path / "one.csv"
    )


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


def test_copies_planted_at_another_site_leak(hospitals, tmp_path, cli, capsys):
    """At the held-out site, a third copy of every tile of lung_scc that the training site holds."""
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


@pytest.fixture
def cli(capsys):
    """Run a command as it would be typed; returns what it prints, errors pass."""

    def run(*words: object) -> str:
        capsys.readouterr()
        app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    return run


@needs_lc25000
def test_real_patches_are_grouped_as_published():
    catalog = pipeline_catalog(pipeline([], root=real_lc25000(), source="lc25000"))
    kept = np.flatnonzero(catalog.groups % 40 == 3)
    readers = [functools.partial(catalog.source.read, catalog.references[row]) for row in kept]
    pairs = find_pairs(describe_patches(readers, silent), silent)
    precision, recall = agreement(linked(len(kept), pairs, 0.75), catalog.groups[kept])
    assert len(kept) > 80
    assert precision >= 0.99
    assert recall >= 0.8
