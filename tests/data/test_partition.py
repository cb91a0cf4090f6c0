"""Dealing, splitting, and the proof that nothing is in two places."""

import csv
import dataclasses
import itertools
import re
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medfl import config
from medfl.data.partition import Partition, make_partition
from medfl.data.partition_by_class_mix import apportion
from medfl.data.splits import split_by_group
from medfl.data.synthetic.sites import generate_sites
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from tests.datafiles import (
    CLASSES,
    needs_lc25000,
    pipeline,
    pixels,
    real_lc25000,
    site,
    write_csv,
    write_folders,
    write_image,
    write_lc25000,
)

TWO = ("lung_aca", "lung_n")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 40 images, 20 tiles of 2 copies each."""
    return write_lc25000(tmp_path_factory.mktemp("tiles"), tiles=20, copies=2, classes=TWO, size=2)


def counts(allocation: Partition) -> dict[str, list[int]]:
    return {
        share.site: np.bincount(share.labels, minlength=len(share.catalog.classes)).tolist()
        for share in allocation.sites
    }


def table(allocation: Partition, path: Path) -> list[dict[str, str]]:
    allocation.write(path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- dealing


def test_demand_is_met_by_whole_groups(tiles: Path) -> None:
    """Groups hold 2 patches of one class: an even demand is met exactly, an odd one to the nearest, one off."""
    sites = [
        site("a", patches=20, class_mix={"lung_aca": 1}),
        site("b", patches=20, class_mix={"lung_aca": 0.4, "lung_n": 0.6}),
        site("c", patches=30, class_mix={"lung_aca": 0.3, "lung_n": 0.7}),
    ]
    made = counts(make_partition(pipeline(sites, classes=TWO, root=tiles)))
    assert made["a"] == [20, 0]
    assert made["b"] == [8, 12]
    assert [abs(have - want) for have, want in zip(made["c"], (9, 21), strict=True)] == [1, 1]


def test_all_there_is_can_be_dealt_to_the_last_group(tiles: Path) -> None:
    """Demand equals supply, 16 + 24 of each class: with even demands nothing may be left over or short."""
    sites = [site("a", patches=32), site("b", patches=48)]
    assert counts(make_partition(pipeline(sites, classes=TWO, root=tiles))) == {"a": [16, 16], "b": [24, 24]}


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


def test_the_seed_decides_who_gets_what(tiles: Path) -> None:
    def of_a(seed: int) -> list[int]:
        return (
            make_partition(pipeline([site("a", patches=20), site("b", patches=20)], seed=seed, classes=TWO, root=tiles))
            .sites[0]
            .rows.tolist()
        )

    assert of_a(0) == of_a(0)
    assert of_a(0) != of_a(1)


def test_demand_above_supply_shows_both(tiles: Path) -> None:
    sites = [site("a", patches=50, class_mix={"lung_aca": 0.9, "lung_n": 0.1}), site("b", patches=10)]
    with pytest.raises(MedflError) as error:
        make_partition(pipeline(sites, classes=TWO, root=tiles))
    first, _, aca, n = str(error.value).splitlines()
    assert "lower `patches` or change `class_mix`" in first
    assert aca.split() == ["lung_aca", "50", "40", "too", "few"]
    assert n.split() == ["lung_n", "10", "40"]


def test_unstated_patches_are_an_equal_share_of_what_the_mixes_allow(tiles: Path) -> None:
    """a states 12 (6 + 6), so 34 + 34 are left. b (all lung_n) and c (half and half) have P each: P + P/2 <= 34 gives
    P = 22.67, less 2 % is 22."""
    sites = [site("a", patches=12), site("b", class_mix={"lung_n": 1.0}), site("c")]
    made = counts(make_partition(pipeline(sites, classes=TWO, root=tiles)))
    assert made["a"] == [6, 6]
    assert made["b"] == [0, 22]
    assert all(count in (10, 12) for count in made["c"])  # 11 each, in groups of two


def test_unstated_shares_of_a_very_small_supply_are_not_refused(tmp_path: Path) -> None:
    root = write_lc25000(tmp_path, tiles=4, copies=1, size=2)
    mix = dict.fromkeys(CLASSES, 0.2)
    made = make_partition(
        pipeline([site("a", class_mix=mix)], [site("b", class_mix=mix), site("c", class_mix=mix)], root=root)
    )
    assert all(sum(have) == 5 for have in counts(made).values())  # 6 would round to two of the first class at each


def test_a_demand_far_below_one_group_is_an_error(tmp_path: Path) -> None:
    root = write_lc25000(tmp_path, tiles=4, copies=6, classes=TWO, size=2)
    with pytest.raises(MedflError, match=r"site b: its demand of 2 patches is nearer to none.*raise its `patches`"):
        make_partition(pipeline([site("a", patches=24)], [site("b", patches=2)], classes=TWO, root=root))


def test_patients_with_several_classes_stay_whole(tmp_path: Path) -> None:
    """30 patients, each with 3 patches of one class and 1 of the other."""
    for patient in range(30):
        for index in range(4):
            label = TWO[(patient + (index == 0)) % 2]
            write_image(tmp_path / "p" / label / f"ann{patient}" / f"{index}.png", pixels(patient * 4 + index, 2))
    sites = [site("a", patches=40), site("b", patches=40)]
    made = make_partition(pipeline(sites, [site("c", patches=20)], classes=TWO, source="folder", root=tmp_path / "p"))
    assert all(count % 4 == 0 for count in map(sum, counts(made).values()))
    for share, want in zip(made.sites, (40, 40, 20), strict=True):
        assert abs(len(share.rows) - want) <= 4
        for rows in share.splits.values():
            assert len(rows) % 4 == 0  # whole patients


def test_apportion_rounds_by_largest_remainder() -> None:
    assert apportion(10, np.array([0.25, 0.25, 0.5])).tolist() == [3, 2, 5]
    assert apportion(1, np.array([0.2, 0.5, 0.3])).tolist() == [0, 1, 0]
    assert apportion(7, np.array([1.0, 0.0])).tolist() == [7, 0]


def test_unknown_class_in_a_mix(tiles: Path) -> None:
    sites = [site("a", class_mix={"lung_ac": 1.0})]
    with pytest.raises(MedflError, match=r'site a: `class_mix` names the class lung_ac.*"lung_aca"'):
        make_partition(pipeline(sites, classes=TWO, root=tiles))


# --- splitting


def test_splits_hold_whole_groups_and_every_class_with_three() -> None:
    """60 random sites, from 3 groups to 40, of skewed classes, sizes and mixtures."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in range(60):
            groups = np.repeat(np.arange(n := int(rng.integers(3, 40))), rng.integers(1, 8, n))
            pure = rng.dirichlet(np.full(5, 0.4)).cumsum().searchsorted(rng.random(n)).clip(max=4)
            mixed = case % 3 == 0
            labels = (
                np.where(rng.random(len(groups)) < 0.2, rng.integers(0, 5, len(groups)), pure[groups])
                if mixed
                else pure[groups]
            )
            splits = split_by_group(labels, groups, 0.15, 0.2, case)
            assert sorted(np.concatenate(list(splits.values()))) == list(range(len(groups)))
            homes = [set(groups[rows]) for rows in splits.values()]
            assert all(homes)
            assert sum(map(len, homes)) == len(set().union(*homes))
            for label in () if mixed else np.unique(labels):
                if len(set(groups[labels == label])) >= 3:
                    assert all((labels[rows] == label).any() for rows in splits.values()), (case, label)


def test_shares_come_near_what_is_asked() -> None:
    labels = np.repeat(np.arange(400) % 4, 5)
    groups = np.repeat(np.arange(400), 5)
    splits = split_by_group(labels, groups, 0.15, 0.2, 1)
    assert abs(len(splits["test"]) / 2000 - 0.2) < 0.01
    assert abs(len(splits["val"]) / 2000 - 0.15) < 0.02
    for rows in splits.values():
        assert np.ptp(np.bincount(labels[rows])) <= 10  # stratified: two groups at most
    third = split_by_group(labels, groups, 0.3, 0.3, 1)
    assert [round(len(third[name]) / 2000, 1) for name in ("train", "val", "test")] == [0.4, 0.3, 0.3]


def test_splits_do_not_depend_on_the_order_of_rows() -> None:
    groups = np.repeat(np.arange(30), 4)
    labels = groups % 3
    shuffled = np.random.default_rng(0).permutation(len(groups))
    plain, moved = (split_by_group(labels[o], groups[o], 0.15, 0.2, 5) for o in (np.arange(120), shuffled))
    for name in plain:
        assert set(groups[plain[name]]) == set(groups[shuffled][moved[name]])
    assert set(plain["test"]) != set(split_by_group(labels, groups, 0.15, 0.2, 6)["test"])


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


# --- own data


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


# --- proof


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


# --- generated sites


def test_generated_sites_are_reproducible_and_do_not_depend_on_their_number() -> None:
    few = generate_sites(config.Generate(count=3, held_out=1, patches=30), CLASSES, seed=7)
    many = generate_sites(config.Generate(count=120, held_out=2, patches=30), CLASSES, seed=7)
    assert few[0] == many[0][:3]
    assert few[1] == many[1][:1]
    assert [s.name for s in few[0] + few[1]] == ["site-01", "site-02", "site-03", "held-out-01"]
    assert many[0][119].name == "site-120"
    assert generate_sites(config.Generate(count=3), CLASSES, seed=8)[0][0].class_mix != few[0][0].class_mix
    stains = {s.stain.model_dump_json() for s in many[0] + many[1] if isinstance(s.stain, config.StainProfile)}
    assert len(stains) == 122
    assert {s.role for s in few[1]} == {"held_out"}
    assert {s.stain_strength for s in few[0]} == {0.5}


@pytest.mark.parametrize("alpha", [1e-9, 0.1, 1000.0, 1e300])
def test_generated_mixes_follow_alpha(alpha: float) -> None:
    sites, _ = generate_sites(config.Generate(count=200, dirichlet_alpha=alpha), CLASSES, seed=0)
    mixes = np.array([[(s.class_mix or {}).get(name, 0.0) for name in CLASSES] for s in sites])
    assert np.allclose(mixes.sum(axis=1), 1, atol=1e-3)
    assert np.abs(mixes.mean(axis=0) - 0.2).max() < 0.08
    # Var of a symmetric Dirichlet share: (1/5)(4/5) / (5 alpha + 1)
    expected = 0.4 / np.sqrt(5 * min(max(alpha, 1e-3), 1e6) + 1)
    assert abs(mixes.std(axis=0).mean() - expected) < 0.15 * expected + 1e-4
    leading = [max(s.class_mix or {}, key=lambda name: (s.class_mix or {})[name]) for s in sites]
    assert alpha > 1 or min(Counter(leading).values()) > 20


def test_a_pipeline_of_generated_sites_reads_back_equal(tmp_path: Path) -> None:
    made = pipeline([site("x")])
    train, held_out = generate_sites(config.Generate(count=4, held_out=2), CLASSES, seed=3)
    made = made.model_copy(update={"sites": config.Sites(train=train, held_out=held_out)})
    (tmp_path / "p.yaml").write_text(dump_pipeline(made), encoding="utf-8")
    assert load_pipeline(tmp_path / "p.yaml").sites == made.sites


@needs_lc25000
def test_real_data_in_equal_shares() -> None:
    """Five and two generated sites of nearly one mix share the real images evenly."""
    train, held_out = generate_sites(config.Generate(count=5, held_out=2, dirichlet_alpha=1000), CLASSES, seed=0)
    made = pipeline([site("x")], root=real_lc25000())
    made = made.model_copy(update={"sites": config.Sites(train=train, held_out=held_out)})
    allocation = make_partition(made)
    sizes = [len(share.rows) for share in allocation.sites]
    total = len(allocation.sites[0].catalog.references)
    assert min(sizes) > 0.8 * total / 7
    assert max(sizes) - min(sizes) < 0.1 * total / 7
    for share in allocation.sites:
        for positions in share.splits.values():
            assert len(np.unique(share.labels[positions])) == 5


def test_held_out_sites_may_have_an_alpha_of_their_own():
    skewed = config.Generate(count=4, held_out=3, dirichlet_alpha=0.1)
    train, _ = generate_sites(skewed, CLASSES, seed=0)
    same, held_out = generate_sites(skewed.model_copy(update={"held_out_alpha": 1000.0}), CLASSES, seed=0)
    assert same == train
    assert all(max(site.class_mix.values()) < 0.3 for site in held_out)
    assert all(max(site.class_mix.values()) > 0.4 for site in train)


def test_capacities_give_generated_sites_density_and_line():
    unequal = config.Generate(count=5, held_out=1, capacities=[1.0, 0.5, 0.1])
    train, held_out = generate_sites(unequal, CLASSES, seed=0)
    assert [site.density for site in train] == [1.0, 0.5, 0.1, 1.0, 0.5]
    assert [(site.link.down, site.link.up) for site in train[:3]] == [(20, 5), (10, 2.5), (2, 0.5)]
    assert held_out[0].link is None
    plain, _ = generate_sites(unequal.model_copy(update={"capacities": []}), CLASSES, seed=0)
    assert plain[0].link is None
    assert [site.class_mix for site in plain] == [site.class_mix for site in train]


def test_what_was_drawn_once_is_not_drawn_again(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 3, 200), np.repeat(np.arange(50), 4)
    plain = split_by_group(labels, groups, 0.15, 0.2, 5)
    first = split_by_group(labels, groups, 0.15, 0.2, 5, tmp_path / "splits")
    monkeypatch.setattr("medfl.data.splits._draw", lambda *_: pytest.fail("drawn again"))
    again = split_by_group(labels, groups, 0.15, 0.2, 5, tmp_path / "splits")
    for name in plain:
        np.testing.assert_array_equal(plain[name], first[name])
        np.testing.assert_array_equal(plain[name], again[name])
    monkeypatch.undo()
    for file in (tmp_path / "splits").iterdir():
        file.write_bytes(b"cut short")
    other = split_by_group(labels, groups, 0.15, 0.2, 6, tmp_path / "splits")
    torn = split_by_group(labels, groups, 0.15, 0.2, 5, tmp_path / "splits")
    np.testing.assert_array_equal(plain["test"], torn["test"])
    assert set(other["test"]) != set(torn["test"])
