"""What sites hold is noted under a key and compared in one place."""

import random
import shutil
from pathlib import Path

import pytest

from medfl.data.partition import make_partition
from medfl.errors import MedflError
from medfl.runs.data_record import KEY_FILE, changed_sites, check_data, data_key, note_data, read_rows, write_rows
from medfl.runs.folder import RunFolder
from tests.datafiles import pipeline, pixels, site, write_folders, write_image


@pytest.fixture
def made(tmp_path: Path):
    """A pipeline of two sites with folders of their own."""
    roots = [write_folders(tmp_path / name, {"lung_aca": 4, "lung_n": 4}, seed=k) for k, name in enumerate("ab")]
    sites = [site(name, root, "folder") for name, root in zip("ab", roots, strict=True)]
    return pipeline([], sites, mode="own", cache=tmp_path / "cache")


def begun(tmp_path: Path, made, name: str = "run") -> RunFolder:
    folder = RunFolder.create(name, tmp_path / name)
    note_data(folder, make_partition(made), made)
    return folder


def check(folder: RunFolder, made) -> None:
    check_data(folder, make_partition(made), made.cache_dir)


def test_replaced_images_are_noticed_and_named(tmp_path: Path, made) -> None:
    folder = begun(tmp_path, made)
    check(folder, made)
    path = tmp_path / "b" / "lung_n" / "lung_n-p00" / "000.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # the same size
    path.write_bytes(content)
    with pytest.raises(MedflError, match=r"the data of b behind .* has changed since the run began"):
        check(folder, made)


def test_a_digest_is_keyed_and_the_key_stays(tmp_path: Path, made) -> None:
    one, two = begun(tmp_path, made, "one"), begun(tmp_path, made, "two")
    assert one.allocation_summary.read_bytes() == two.allocation_summary.read_bytes()  # one machine
    assert (one.path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    digests = {row["digest"] for row in read_rows(one.allocation_summary)}
    assert not digests & {row["digest"] for row in make_partition(made).summary()} - {""}
    assert not digests & {row["digest"] for row in make_partition(made).summary(b"another" * 5)} - {""}
    shutil.rmtree(made.cache_dir)  # the run goes on without the machine's key
    check(one, made)
    (one.path / KEY_FILE).unlink()
    with pytest.raises(MedflError, match="has changed"):
        check(one, made)


def test_a_run_of_version_0_1_is_compared_as_that_version_did(tmp_path: Path, made) -> None:
    folder = RunFolder.create("old", tmp_path / "old")
    partition = make_partition(made)
    write_rows(folder.allocation_summary, partition.summary())
    check(folder, made)
    assert not (folder.path / KEY_FILE).exists()
    keyed = partition.summary(data_key(tmp_path / "site", made.cache_dir))
    assert not changed_sites(read_rows(folder.allocation_summary), keyed)  # a site that writes keyed digests now
    write_image(tmp_path / "a" / "lung_n" / "lung_n-p00" / "000.png", pixels(5, 40))
    with pytest.raises(MedflError, match="the data of a behind"):
        check(folder, made)
    (tmp_path / "a" / "lung_n" / "lung_n-p00" / "001.png").unlink()
    now = make_partition(made).summary(b"k" * 32)
    assert changed_sites(read_rows(folder.allocation_summary), now) == ["a"]


def test_any_changed_cell_is_noticed_or_a_sentence(tmp_path: Path, made) -> None:
    folder = begun(tmp_path, made)
    whole, rng = folder.allocation_summary.read_bytes(), random.Random(1)
    rows = read_rows(folder.allocation_summary)
    for _ in range(60):
        at = rng.randrange(len(whole))
        folder.allocation_summary.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(7)]) + whole[at + 1 :])
        try:
            there = read_rows(folder.allocation_summary)
        except MedflError:
            continue
        if [{k: row[k] for k in row if k != "role"} for row in there] != [
            {k: row[k] for k in row if k != "role"} for row in rows
        ]:
            with pytest.raises(MedflError):
                check(folder, made)


def test_a_damaged_key_is_a_sentence(tmp_path: Path, made) -> None:
    folder = begun(tmp_path, made)
    (folder.path / KEY_FILE).write_text("zz")
    with pytest.raises(MedflError, match=r"data\.key.* is damaged"):
        check(folder, made)
