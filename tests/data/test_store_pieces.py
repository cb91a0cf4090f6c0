"""Stores in pieces: those of JPEGs, and a rendering that goes on where it was stopped."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medfl.data import block_checks, store_file, store_pieces, store_record
from medfl.data.batches import AugmentSpec, Batches
from medfl.data.file_lock import lock_file
from medfl.data.normalise import FIXED
from medfl.data.scratch_folder import OWNER, draft_of, left_behind
from medfl.data.stained_store import in_stain
from medfl.data.store_file import Damaged, open_store, read_store
from medfl.data.store_pieces import write_store
from medfl.data.stored_patches import JpegPatches, PatchFiles, decode_jpeg, encode_jpeg
from medfl.errors import MedflError
from tests.data.rendering import own, render_all

PATCHES = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from medfl.data import block_checks, store_file, store_pieces, store_record

store_pieces.PIECE_PATCHES = 4
def patches(positions, problems):
    if positions.start == 8:
        os.kill(os.getpid(), 9)
    yield np.full((len(positions), 8, 8, 3), positions.start, np.uint8)
store_pieces.write_store(Path(sys.argv[1]), 8, "here", 10, patches, {})
"""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_pieces, "PIECE_PATCHES", 4)


class Patches:
    """Gives PATCHES, notes what it was asked for, and stops where it is told to."""

    def __init__(self, stop: int = 99, bad: tuple[int, ...] = ()) -> None:
        self.asked: list[int] = []
        self.stop, self.bad = stop, bad

    def __call__(self, positions, problems):
        self.asked.append(positions.start)
        for position in positions:
            if position == self.stop:
                raise OSError(28, "No space left on device")
            if position in self.bad:
                problems[position] = "damaged"
            else:
                yield PATCHES[position : position + 1]


def test_pieces_hold_what_one_array_would_and_know_what_is_damaged(tmp_path):
    images, problems = write_store(tmp_path / "a", 8, "here", 10, Patches(bad=(1, 4, 5, 6, 7)), {})
    assert isinstance(images, PatchFiles)
    assert np.array_equal(images, PATCHES[[0, 2, 3, 8, 9]])
    assert problems == dict.fromkeys((1, 4, 5, 6, 7), "damaged")
    assert [file.shape[0] for file in images.files] == [3, 2]  # of the second piece nothing could be read
    assert sorted(path.suffix for path in (tmp_path / "a").iterdir()) == [".json"] * 4 + [".npy"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_pieces_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(store_pieces, "PIECE_BYTES", 2 * 192)
    images, _ = write_store(tmp_path / "a", 8, "here", 10, Patches(), {})
    assert len(images.files) == 5


@pytest.mark.parametrize("jpeg", [None, 95])
def test_a_rendering_that_stopped_goes_on_with_the_piece_it_was_at(tmp_path, jpeg):
    folder, first, second, counts = tmp_path / "a", Patches(stop=9, bad=(1,)), Patches(), []
    with pytest.raises(MedflError, match=r"site here: the cache .* cannot be written"):
        write_store(folder, 8, "here", 10, first, {}, jpeg)
    assert open_store(folder, "here") is None
    assert not list(draft_of(folder).glob("images-0002*"))  # the room that the last piece took is free
    images, problems = write_store(folder, 8, "here", 10, second, {}, jpeg, counts.append)
    assert (first.asked, second.asked, counts) == ([0, 4, 8], [8], [4, 4])
    assert problems == {1: "damaged"}
    rows = PATCHES[[0, *range(2, 10)]]
    assert np.array_equal(images, rows if jpeg is None else [decode_jpeg(encode_jpeg(row, 95)) for row in rows])
    assert not left_behind(tmp_path)


def test_a_process_that_is_killed_loses_one_piece(tmp_path):
    folder = tmp_path / "a"
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert left_behind(tmp_path) == [draft_of(folder)]
    again = Patches()
    images, _ = write_store(folder, 8, "here", 10, again, {})
    assert again.asked == [8]
    assert images[[0, 7]][:, 0, 0, 0].tolist() == [0, 4]
    assert np.array_equal(images[8:], PATCHES[8:])


def test_a_piece_that_was_damaged_meanwhile_is_made_anew(tmp_path):
    folder, again = tmp_path / "a", Patches()
    with pytest.raises(MedflError):
        write_store(folder, 8, "here", 10, Patches(stop=9), {})
    draft = draft_of(folder)
    (draft / "images-0000.npy").write_bytes(b"0" * 100)
    (draft / "images-0001.json").write_text("{}")
    images, _ = write_store(folder, 8, "here", 10, again, {})
    assert again.asked == [0, 4, 8]
    assert np.array_equal(images, PATCHES)


def test_two_processes_at_one_store_do_not_meet(tmp_path):
    folder = tmp_path / "a"
    draft_of(folder).mkdir()
    other = os.open(draft_of(folder) / OWNER, os.O_RDWR | os.O_CREAT)
    assert lock_file(other)
    try:
        images, _ = write_store(folder, 8, "here", 10, Patches(), {})
        assert np.array_equal(images, PATCHES)
        assert [path.name for path in draft_of(folder).iterdir()] == [OWNER]
    finally:
        os.close(other)


@pytest.mark.parametrize("jpeg", [None, 95])
def test_any_damage_of_a_piece_is_seen(tmp_path, jpeg):
    folder = tmp_path / "a"
    write_store(folder, 8, "here", 10, Patches(), {}, jpeg)
    for file in sorted(folder.iterdir()):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        kept = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(Damaged, match=file.name):
            read_store(folder)
        file.write_bytes(kept)
    read_store(folder, recheck=True)


def test_jpegs_are_what_is_seen_and_have_a_digest_of_their_own(root: Path) -> None:
    raw, jpeg = render_all(own(root))["here"], render_all(own(root, store="jpeg"))["here"]
    assert isinstance(jpeg.images, JpegPatches)
    assert np.array_equal(jpeg.images, [decode_jpeg(encode_jpeg(patch, 95)) for patch in raw.images])
    assert (raw.jpeg, jpeg.jpeg) == (None, 95)
    digests = {store.digest for store in (raw, jpeg, render_all(own(root, store={"jpeg": 80}))["here"])}
    assert len(digests) == 3
    assert render_all(own(root, store="raw"))["here"].digest == raw.digest
    again = render_all(own(root, store="jpeg"))["here"]
    assert (again.digest, again.folder) == (jpeg.digest, jpeg.folder)


def test_files_that_cannot_be_read_are_left_out_of_jpegs_too(root: Path) -> None:
    (root / "lung_aca" / "lung_aca-p00" / "000.png").write_bytes(b"no image")
    store = render_all(own(root, store="jpeg", on_bad_image="skip"))["here"]
    assert (store.skipped, len(store.images), len(store.labels)) == (1, 11, 11)
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(MedflError, match="12 of 12 images cannot be read"):
        render_all(own(root, store="jpeg", on_bad_image="skip"))


def test_another_stain_of_jpegs_is_kept_as_jpegs(root: Path) -> None:
    store = render_all(own(root, store="jpeg", size=32))["here"]
    made = in_stain(store, FIXED["reinhard"].numbers)
    assert isinstance(made.images, JpegPatches)
    assert made.digest != store.digest
    facts = json.loads((made.folder / "store.json").read_text().splitlines()[0])
    assert facts["facts"] == {"jpeg": 95}


@pytest.mark.parametrize("augment", [AugmentSpec(), AugmentSpec(jitter="x")])
def test_batches_are_those_of_an_array_whatever_they_are_read_from(root: Path, augment: AugmentSpec) -> None:
    store = render_all(own(root, store="jpeg"))["here"]
    order = torch.arange(12).view(3, 4).flip(0)
    drawn = []
    for images in (store.images, np.array(store.images)):
        jitter = (lambda patches, seed: patches // 2 + np.uint8(seed % 7)) if augment.jitter else None
        one = dataclasses.replace(store, images=images)
        batches = Batches(one, torch.device("cpu"), (0.5,) * 3, (0.5,) * 3, augment, jitter)
        parts = [batch for batch, _ in batches.training(order, 3)]
        parts += list(batches.evaluation(np.arange(12), 5, full=True))
        assert [len(part) for part in parts] == [4, 4, 4, 5, 5, 5]
        assert list(batches.evaluation(np.arange(0), 5)) == []
        drawn.append(torch.cat(parts))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("jpeg", [None, 95])
def test_blocks_of_large_stores_are_checked_when_they_are_read(tmp_path, monkeypatch, jpeg):
    monkeypatch.setattr(store_file, "AT_ONCE", 0)
    monkeypatch.setattr(store_record, "BLOCK", 256)
    monkeypatch.setattr(block_checks, "BLOCK", 256)
    folder = tmp_path / "a"
    images, _ = write_store(folder, 8, "here", 10, Patches(), {}, jpeg)
    assert not any(checks.seen.any() for checks in images.checks)
    expected = images[:]
    assert all(checks.seen.all() for checks in images.checks)
    file = folder / f"images-0001.{'npy' if jpeg is None else 'jpegs'}"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    damaged, _ = read_store(folder)
    assert np.array_equal(damaged[[0, 4, 9]], expected[[0, 4, 9]])
    with pytest.raises(MedflError, match=r"images-0001.* block \d+\); `medfl cache verify` finds the store"):
        _ = damaged[[2, 7]]
    with pytest.raises(Damaged, match="images-0001"):
        read_store(folder, recheck=True)
    file.write_bytes(content[:-300])
    with pytest.raises(Damaged, match="are not what was written"):
        read_store(folder)
