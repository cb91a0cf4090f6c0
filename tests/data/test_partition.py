"""Dealing, splitting, and the proof that nothing is in two places."""

import csv
import dataclasses
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from medfl.data.partition import Partition, make_partition
from medfl.errors import MedflError
from tests.data.dealing import TWO, counts
from tests.datafiles import (
    pipeline,
    pixels,
    site,
    write_csv,
    write_folders,
    write_image,
    write_lc25000,
)


def table(allocation: Partition, path: Path) -> list[dict[str, str]]:
    allocation.write(path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_no_group_or_file_is_in_two_sites_or_splits(tiles: Path, tmp_path: Path) -> None:
    """Read back from the written table, as anyone would check it."""
    made = pipeline([site("a", patches=24), site("b", patches=24)], [site("c", patches=20)], classes=TWO, root=tiles)
    rows = table(make_partition(made), tmp_path / "allocation.csv")
    places: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        places.setdefault(row["group"], set()).add((row["site"], row["split"]))
        assert Path(row["file"]).parent.name == row["class"]
    assert {len(where) for where in places.values()} == {1}
    assert len({row["file"] for row in rows}) == len(rows) == 68
    assert {row["split"] for row in rows if row["site"] == "c"} == {"test"}
    assert {row["split"] for row in rows if row["site"] == "a"} == {"train", "val", "test"}


def test_permuting_site_files_changes_only_the_order_of_rows(tiles: Path, tmp_path: Path) -> None:
    sites = [site("a", patches=11), site("b", class_mix={"lung_n": 1.0}), site("c"), site("d", patches=9)]
    held = [site("y"), site("x", patches=6)]
    written = []
    for order in itertools.islice(itertools.permutations(sites), 0, 24, 5):
        made = make_partition(pipeline(order, held[:: len(written) % 2 * 2 - 1], classes=TWO, root=tiles))
        assert [share.site for share in made.sites][:4] == [entry["name"] for entry in order]
        written.append(sorted(tuple(row.values()) for row in table(made, tmp_path / "a.csv")))
    assert all(rows == written[0] for rows in written)


def test_a_training_site_needs_three_groups(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "a", {"lung_aca": 4}, per_group=2)
    with pytest.raises(MedflError, match=r"site a: 4 patches of 2 source groups.*at least 3.*held-out"):
        make_partition(pipeline([site("a", root, "folder")], mode="own"))
    made = make_partition(
        pipeline(
            [site("b", write_folders(tmp_path / "b", {"lung_n": 6}), "folder")], [site("a", root, "folder")], mode="own"
        )
    )
    assert {name: len(rows) for name, rows in made.sites[1].splits.items()} == {"test": 4}


def test_three_hospitals_with_their_own_folders(tmp_path: Path) -> None:
    """Different layouts, names and missing classes; all data is used, and a class that lacks stays at zero."""
    north = write_folders(tmp_path / "north", {"lung_aca": 12, "lung_n": 8}, seed=1)
    south = write_folders(tmp_path / "south", {"Adeno": 6, "Squamous": 6, "Healthy": 6}, seed=10_000)
    rows = []
    for index in range(9):
        label = ("kolon", "normal")[index % 2]
        write_image(tmp_path / "west" / f"{index}.png", pixels(50_000 + index))
        rows.append((f"{index}.png", label, f"patient {index // 2}"))
    west = write_csv(tmp_path / "west" / "all.csv", ("path", "label", "source_group"), rows)
    names = {"Adeno": "lung_aca", "Squamous": "lung_scc", "Healthy": "lung_n"}
    sites = [
        site("north", north, "folder", stain="faded"),
        site("south", south, "folder", labels=names),
        site("west", west, "csv", labels={"kolon": "colon_aca", "normal": "colon_n"}),
    ]
    made = make_partition(pipeline(sites, mode="own"))
    assert counts(made) == {"north": [12, 8, 0, 0, 0], "south": [6, 6, 6, 0, 0], "west": [0, 0, 0, 5, 4]}
    assert all(set(share.splits) == {"train", "val", "test"} for share in made.sites)
    rows = made.summary()
    assert len(rows) == 3 * 3 * 5
    assert sum(int(row["patches"]) for row in rows) == 20 + 18 + 9
    assert {row["digest"] for row in rows if not row["patches"]} == {""}


def test_a_site_may_bring_its_own_data_into_a_dealt_federation(tiles: Path, tmp_path: Path) -> None:
    own = write_folders(tmp_path, {"lung_aca": 3}, per_group=1)
    made = make_partition(pipeline([site("a", patches=20)], [site("mine", own, "folder")], classes=TWO, root=tiles))
    assert counts(made)["mine"] == [3, 0]
    with pytest.raises(MedflError, match="site mine: `patches` is for dealt data"):
        make_partition(pipeline([site("a")], [site("mine", own, "folder", patches=2)], classes=TWO, root=tiles))


def test_two_sites_on_one_folder_are_refused(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "all", {"lung_aca": 8, "lung_n": 8})
    (tmp_path / "alias").symlink_to(root)
    for other in (root, tmp_path / "alias"):
        with pytest.raises(MedflError, match=r"source group .* is in two places, site a .* and site b .*`data.root`"):
            make_partition(pipeline([site("a", root, "folder"), site("b", other, "folder")], mode="own"))


def test_one_file_at_two_sites_is_refused_also_through_links(tmp_path: Path) -> None:
    first = write_folders(tmp_path / "a", {"lung_aca": 8})
    second = write_folders(tmp_path / "b", {"lung_aca": 8}, seed=99)
    inside = second / "lung_aca" / "someone" / "x.png"
    inside.parent.mkdir()
    inside.symlink_to(first / "lung_aca" / "lung_aca-p00" / "000.png")
    made = pipeline([site("a", first, "folder"), site("b", second, "folder")], mode="own")
    with pytest.raises(MedflError, match=r"site b: .*x.png is a link that leads out of"):
        make_partition(made)
    inside.unlink()
    inside.hardlink_to(first / "lung_aca" / "lung_aca-p00" / "000.png")
    with pytest.raises(MedflError, match="is in two places"):
        make_partition(made)


def test_lc25000_copied_to_two_hospitals_is_seen_by_its_published_groups(tmp_path: Path) -> None:
    first = write_lc25000(tmp_path / "one" / "lc", tiles=4, copies=1, size=2)
    table = (first / "source_groups.csv").rename(tmp_path / "groups.csv")
    second = Path(shutil.copytree(first, tmp_path / "two" / "lc"))
    with pytest.raises(MedflError, match=r"source group .* is in two places"):
        make_partition(pipeline([site("a", first), site("b", second)], mode="own", source_groups=table))


def planted(share, split: str, row: int):
    """The share with one more row of its catalog, put at the end of a split."""
    at = len(share.rows)
    splits = {**share.splits, split: np.append(share.splits[split], at)}
    return dataclasses.replace(share, rows=np.append(share.rows, row), splits=splits)


def test_check_fails_where_a_group_is_planted_in_two_sites(tiles: Path) -> None:
    made = make_partition(pipeline([site("a", patches=20)], [site("b", patches=20)], classes=TWO, root=tiles))
    first, second = made.sites
    twin = np.flatnonzero(first.catalog.groups == first.groups[first.splits["val"][0]])
    bad = Partition((first, planted(second, "test", int(twin[0]))))
    group = first.catalog.group_names[first.catalog.groups[twin[0]]]
    with pytest.raises(MedflError, match=re.escape(f"group {group} is in two places, site a (val) and site b (test)")):
        bad.check()


def test_check_fails_where_a_group_is_torn_between_splits(tiles: Path) -> None:
    (share,) = make_partition(pipeline([site("a", patches=20)], classes=TWO, root=tiles)).sites
    moved = {**share.splits, "test": np.append(share.splits["test"], share.splits["train"][0])}
    moved["train"] = share.splits["train"][1:]
    with pytest.raises(MedflError, match=r"in two places, site a \(train\) and site a \(test\)"):
        Partition((dataclasses.replace(share, splits=moved),)).check()
    with pytest.raises(MedflError, match="in no split or in two"):
        Partition((dataclasses.replace(share, splits={**share.splits, "train": moved["train"]}),)).check()


def test_check_fails_where_one_file_has_two_groups_in_two_splits(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"lung_aca": 30}, per_group=1)
    for index in range(1, 30):  # every other file is a link to the first
        (path := next((root / "lung_aca" / f"lung_aca-p{index:02d}").iterdir())).unlink()
        path.symlink_to(root / "lung_aca" / "lung_aca-p00" / "000.png")
    with pytest.raises(MedflError, match=r"the file .* is in two places, site a \(\w+\) and site a"):
        make_partition(pipeline([site("a", root, "folder")], mode="own"))


def test_leaky_is_carried(tiles: Path) -> None:
    sites = [site("a", patches=20)]
    assert make_partition(pipeline(sites, classes=TWO, root=tiles, source_groups="ignore")).groups_unknown
    assert not make_partition(pipeline(sites, classes=TWO, root=tiles)).groups_unknown


def test_digests_know_the_content_and_not_the_place(tiles: Path, tmp_path: Path) -> None:
    sites = [site("a", patches=20), site("b", patches=20)]
    here = make_partition(pipeline(sites, classes=TWO, root=tiles)).summary()
    moved = Path(shutil.copytree(tiles, tmp_path / "elsewhere"))
    assert make_partition(pipeline(sites, classes=TWO, root=moved)).summary() == here
    assert set(here[0]) == {"site", "role", "split", "class", "groups", "patches", "digest"}
    assert len({row["digest"] for row in here}) == len(here)
    made = make_partition(pipeline(sites, classes=TWO, root=moved))
    changed = Path(made.sites[0].locations[int(made.sites[0].splits["val"][0])])
    changed.write_bytes(changed.read_bytes() + b"x")
    differing = [row for row, old in zip(made.summary(), here, strict=True) if row != old]
    assert [(row["site"], row["split"]) for row in differing] == [("a", "val")]
    text = str(here)
    assert ".png" not in text
    assert str(tiles) not in text


def test_one_patient_of_two_sites_in_two_spellings_is_refused(tmp_path: Path) -> None:
    """Two lists over one folder: a patient who is trained on at one site and tested on at the other."""

    def sites(patient: str, **keys: object) -> list[dict[str, object]]:
        rows = {"a": ["Pat1", "Pat2", "Pat3"], "b": [patient, "Pat4", "Pat5"]}
        made = []
        for name, patients in rows.items():
            files = [write_image(tmp_path / f"{name}{n}.png", pixels(n)).name for n in range(3)]
            header, lines = ("path", "label", "source_group"), zip(files, ["lung_n"] * 3, patients, strict=True)
            root = write_csv(tmp_path / f"{name}.csv", header, lines)
            made.append(site(name, root, "csv"))
        made[1]["data"] |= keys
        return made

    def partition(patient: str, **keys: object) -> Partition:
        first, second = sites(patient, **keys)
        return make_partition(pipeline([first], [second], mode="own"))

    with pytest.raises(MedflError, match=r"is in two places, site a .* and site b"):
        partition("Pat1")
    for spelling in ("PAT1", "Pat01", "Pat 1", "Pat1.0"):
        with pytest.raises(
            MedflError, match=r'"\w[^"]*" of site [ab] and "[^"]*" of site [ab] differ in spelling only'
        ):
            partition(spelling)
        assert len(partition(spelling, distinct_names=["Pat1", spelling]).sites) == 2
    assert len(partition("Pat6").sites) == 2


def test_names_that_two_places_share_are_told_and_not_refused(tmp_path: Path) -> None:
    for place, patients in (("a", ("Pat1", "Pat2", "Pat3")), ("b", ("PAT01", "x", "y"))):
        for patient in patients:
            write_image(tmp_path / place / "lung_n" / patient / "1.png", pixels(1))
    sites = [site(place, tmp_path / place, "folder") for place in "ab"]
    (said,) = make_partition(pipeline(sites, mode="own")).namesakes()
    assert said.startswith('Alike: 1 source groups of site b are called as some of site a, the first "PAT01"')
    sites[1]["data"]["source_groups"] = "filename"
    assert make_partition(pipeline(sites, mode="own")).namesakes() == []
