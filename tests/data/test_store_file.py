"""Stores are found again by what they were rendered from."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfl.data import scratch_folder, store_file, store_record
from medfl.data.partition import own_partition
from medfl.data.render import render
from medfl.data.rgb import to_rgb
from medfl.errors import MedflError
from tests.data.rendering import own, render_all
from tests.datafiles import (
    pipeline,
    pixels,
    site,
    write_image,
)


def stores_in(made) -> list[Path]:
    return sorted((made.cache_dir / "stores").iterdir())


def test_a_store_is_keyed_by_content_and_settings(root: Path, tmp_path: Path) -> None:
    first = render_all(own(root))["here"]
    assert len(stores_in(own(root))) == 1
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    os.utime(copy / "lung_aca" / "lung_aca-p00" / "000.png", (1, 1))
    again = render_all(own(copy))["here"]
    assert len(stores_in(own(root))) == 1  # a copied folder finds its store
    assert again.digest == first.digest
    render_all(own(root, size=20))
    render_all(own(root, render=[{"HorizontalFlip": {}}]))
    assert len(stores_in(own(root))) == 3
    write_image(copy / "lung_aca" / "lung_aca-p00" / "000.png", pixels(77))
    changed = render_all(own(copy))["here"]
    assert len(stores_in(own(root))) == 4
    assert changed.digest != first.digest
    assert np.array_equal(changed.images[0], pixels(77))
    assert not list((own(root).cache_dir / "stores").glob(".*"))  # no half-written store is left


def test_large_files_are_told_apart_by_their_middle(tmp_path: Path) -> None:
    image = pixels(0, 300)  # 270 kB uncompressed
    path = write_image(tmp_path / "own" / "lung_n" / "ann" / "a.bmp", image)
    first = render_all(own(tmp_path / "own", size=300))["here"]
    image[150, :, :] ^= 255
    write_image(path, image)
    assert not np.array_equal(render_all(own(tmp_path / "own", size=300))["here"].images, first.images)


def test_a_damaged_store_is_rendered_again(root: Path) -> None:
    made = own(root)
    first = np.array(render_all(made)["here"].images)
    (folder,) = stores_in(made)
    for damage in (b"", b"\x93NUMPY broken", (folder / "images.npy").read_bytes()[:-1]):
        (folder / "images.npy").write_bytes(damage)
        assert np.array_equal(render_all(made)["here"].images, first)


def test_a_store_that_another_process_puts_in_place_while_it_is_read_is_sound(root: Path, monkeypatch, caplog) -> None:
    made = own(root)
    first = np.array(render_all(made)["here"].images)
    (folder,) = stores_in(made)
    hidden = folder.rename(folder.with_name("elsewhere"))
    asked = []

    def read_text(file: Path):
        asked.append(file)
        if len(asked) == 1:  # no file yet; the folder is renamed to its place before anyone asks for the folder
            hidden.rename(folder)
            raise FileNotFoundError(file)
        return store_record.read_text(file)

    monkeypatch.setattr(store_file, "read_text", read_text)
    images, _ = store_file.open_store(folder, "here")
    assert np.array_equal(images, first)
    assert len(asked) == 2
    assert not caplog.records


def test_a_store_that_another_process_made_anew_while_the_damaged_one_was_read_stays(root: Path, monkeypatch) -> None:
    made = own(root)
    first = np.array(render_all(made)["here"].images)
    (folder,) = stores_in(made)
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    (folder / "images.npy").write_bytes(b"")
    read, asked = store_file.read_store, []

    def read_store(folder: Path, recheck: bool = False):
        asked.append(folder)
        try:
            return read(folder, recheck)
        finally:
            if len(asked) == 1:
                scratch_folder.discard(folder)
                copy.rename(folder)

    monkeypatch.setattr(store_file, "read_store", read_store)
    images, _ = store_file.open_store(folder, "here")
    assert np.array_equal(images, first)
    assert len(asked) == 2


def test_a_damaged_store_goes_at_once_for_whoever_looks(root: Path) -> None:
    made = own(root)
    render_all(made)
    (folder,) = stores_in(made)
    (folder / "store.json").unlink()
    assert store_file.open_store(folder, "here") is None
    assert not list(folder.parent.iterdir())


def test_a_failed_rendering_leaves_nothing(root: Path) -> None:
    made = own(root, render=[{"CenterCrop": {"height": 8, "width": 8}}])
    with pytest.raises(MedflError, match=r"site here: `render`: CenterCrop gives \[8, 8, 3\].*keeps the size"):
        render_all(made)
    assert not list((made.cache_dir / "stores").iterdir())


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MedflError, match=r"cache .* cannot be written .*`data.cache`.*MEDFL_CACHE"):
        render_all(own(root, cache=tmp_path / "file"))


def test_a_store_found_again_imports_neither_monai_nor_a_decoder(root: Path) -> None:
    made = pipeline([site("here", root, "folder")], mode="own", render=["HorizontalFlip"])
    here = made.train_sites[0]
    digest = render(made, here, own_partition(made, here, "held_out")).digest
    script = (
        "import sys, json\nfrom medfl import config\nfrom medfl.data.partition import own_partition\n"
        "from medfl.data.render import render\nmade = config.Pipeline.model_validate(json.loads(sys.stdin.read()))\n"
        "here = made.train_sites[0]\nstore = render(made, here, own_partition(made, here, 'held_out'))\n"
        "heavy = ('monai', 'torch', 'PIL', 'albumentations', 'medfl.data.decode')\n"
        "print(store.digest, store.images.shape[0], [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], input=made.model_dump_json(), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2) == [digest, "12", "[]\n"]


def test_the_record_beside_a_store_is_plain(root: Path) -> None:
    made = own(root)
    render_all(made)
    (folder,) = stores_in(made)
    assert sorted(path.name for path in folder.iterdir()) == ["images.npy", "store.json"]
    record, check = (folder / "store.json").read_text().splitlines()
    blocks = [zlib.crc32((folder / "images.npy").read_bytes())]
    assert json.loads(record) == {"version": 2, "shape": [12, 16, 16, 3], "bad": {}, "blocks": blocks}
    assert int(check, 16) == zlib.crc32(record.encode())


def test_an_edited_image_is_rendered_anew_though_its_size_and_date_are_the_same(tmp_path: Path) -> None:
    """Above 64 KiB version 0.1 looked at three blocks of a file."""
    image = pixels(0, 300)
    path = write_image(tmp_path / "own" / "lung_n" / "ann" / "a.bmp", image)
    os.utime(path, ns=(10**18, 10**18))
    first = render_all(own(tmp_path / "own", size=300))["here"]
    size = path.stat().st_size
    image[60:90] = 0
    write_image(path, image)
    os.utime(path, ns=(10**18, 10**18))
    assert path.stat().st_size == size
    again = render_all(own(tmp_path / "own", size=300))["here"]
    assert np.array_equal(again.images[0], image)
    assert again.digest != first.digest


def test_any_damaged_byte_of_a_store_is_seen(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = own(root)
    first = np.array(render_all(made)["here"].images)
    (folder,) = stores_in(made)
    rng = random.Random(0)
    for name in ("images.npy", "store.json"):
        size = (folder / name).stat().st_size
        for at in (0, size - 2, *(rng.randrange(size) for _ in range(6))):
            content = bytearray((folder / name).read_bytes())
            content[at] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(content)
            caplog.clear()
            assert np.array_equal(render_all(made)["here"].images, first), (name, at)
            assert f"the store {folder} is damaged" in caplog.text, (name, at)


def test_a_disk_that_fills_is_a_sentence(root: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = own(root, size=64)  # 147 kB
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MedflError, match=r"site here: the cache .* cannot be written .*make room"):
            render_all(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((made.cache_dir / "stores").iterdir())
    assert len(render_all(made)["here"].images) == 12


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "x"), PermissionError(errno.EACCES, "x")])
def test_what_is_wrong_with_the_machine_is_not_noted_of_an_image(
    root: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = own(root, on_bad_image="skip")
    with monkeypatch.context() as patch:
        count = iter(range(100))

        def short(image: Image.Image) -> Image.Image:
            if next(count) == 3:
                raise error
            return to_rgb(image)

        patch.setattr("medfl.data.image_file.to_rgb", short)
        with pytest.raises(MedflError, match=r"site here: .*\.png cannot be read now .*same command again"):
            render_all(made)
    assert render_all(made)["here"].skipped == 0
