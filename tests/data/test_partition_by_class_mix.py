"""Dealing: whole source groups, near the class mix that sites ask for."""

from pathlib import Path

import numpy as np
import pytest

from medfl import config
from medfl.data.partition import make_partition
from medfl.data.partition_by_class_mix import apportion
from medfl.data.synthetic.sites import generate_sites
from medfl.errors import MedflError
from tests.data.dealing import TWO, counts
from tests.datafiles import (
    CLASSES,
    needs_lc25000,
    pipeline,
    pixels,
    real_lc25000,
    site,
    write_image,
    write_lc25000,
)


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
    assert "lower `patches` or change `class_mix`" in str(error.value)
    assert "(lung_aca 50 demanded, 40 available)" in str(error.value)


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
