"""`extends`: which of two files says what."""

from pathlib import Path

import pytest
import yaml

from medfl.errors import MedflError
from medfl.pipeline.base_file import merged
from medfl.pipeline.load_pipeline import load_pipeline
from tests.tiny import tiny


def write(path: Path, **keys) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(keys, sort_keys=False))
    return path


def test_mappings_merge_lists_and_values_replace_and_null_removes():
    base = {"a": {"x": 1, "y": {"z": 2}}, "l": [1, 2], "gone": {"k": 1}}
    assert merged(base, {"a": {"y": {"w": 3}, "x": None}, "l": [3], "gone": None, "new": 0}) == {
        "a": {"y": {"z": 2, "w": 3}},
        "l": [3],
        "new": 0,
    }


def test_a_file_over_two_bases_and_set_over_all(tmp_path):
    write(tmp_path / "ground.yaml", **tiny(method=["ecgr", "fedprox"], registry={"name": "m"}))
    write(tmp_path / "base.yaml", extends="ground.yaml", training={"rounds": 4, "optimizer": {"momentum": 0.5}})
    top = write(tmp_path / "top.yaml", extends="base.yaml", name="top", method=["fedlc"], registry=None)
    made = load_pipeline(top, ["training.rounds=7"])
    optimizer = made.training.optimizer
    assert (made.name, made.method, made.registry, made.training.rounds) == ("top", ["fedlc"], None, 7)
    assert (optimizer.lr, optimizer.momentum, made.training.batch_size) == (0.02, 0.5, 8)


def test_paths_belong_to_the_file_they_stand_in(tmp_path):
    write(tmp_path / "base" / "sites" / "one.yaml", name="one", data={"source": "folder", "root": "../patches"})
    write(tmp_path / "two.yaml", name="two", data={"source": "folder", "root": "mine"})
    data = {"source": "folder", "mode": "own", "size": 32, "cache": "cache"}
    model = {"backbone": "test_resnet", "weights": "start.pth", "input": "timm"}
    base = tiny(data=data, sites={"train": ["sites/one.yaml"]}, model=model)
    write(tmp_path / "base" / "base.yaml", **base)
    made = load_pipeline(write(tmp_path / "top.yaml", extends="base/base.yaml", sites={"held_out": ["two.yaml"]}))
    one, two = made.all_sites
    assert made.data.cache == str(tmp_path / "base" / "cache")
    assert made.model.weights == str(tmp_path / "base" / "start.pth")
    assert Path(one.data.root).resolve() == tmp_path / "base" / "patches"
    assert (two.data.root, two.role) == (str(tmp_path / "mine"), "held_out")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"extends": "a.yaml"}, "circle"),
        ({"extends": "b.yaml"}, "circle"),
        ({"extends": ["a.yaml"]}, "names one pipeline file"),
        ({"extends": "missing.yaml"}, "`extends`: there is no pipeline file"),
        ({"extends": "ground.yaml", "training": {"raunds": 3}}, "the key may stand in"),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path, keys, words):
    write(tmp_path / "ground.yaml", **tiny())
    write(tmp_path / "b.yaml", extends="a.yaml")
    with pytest.raises(MedflError, match=words) as refused:
        load_pipeline(write(tmp_path / "a.yaml", **keys))
    assert "a.yaml" in str(refused.value)
