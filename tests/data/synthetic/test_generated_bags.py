import numpy as np
import pytest

from medfl.config import FeatureTables, GeneratedBags
from medfl.data.bag_files.bag_layout import find_bags
from medfl.data.bag_files.bag_reader import read_bag
from medfl.data.bag_files.label_table import read_labels
from medfl.data.synthetic.generated_bags import generated_bags
from medfl.errors import MedflError

SMALL = GeneratedBags(patients=8, tiles=(4, 6), telling=1, dim=5, shift=3.0)


def vectors(root):
    layout = find_bags(root, "x")
    return {slide: read_bag(root / path)[0] for slide, path in layout.files.items()}


def test_a_site_is_drawn_once_from_its_seed_and_differs_from_another_by_an_offset(tmp_path):
    one, again = (generated_bags(tmp_path / name, "north", ("a", "b"), SMALL) for name in ("x", "y"))
    assert one.name == again.name
    assert generated_bags(tmp_path / "x", "north", ("a", "b"), SMALL) == one
    here, there = vectors(one), vectors(again)
    assert all(np.array_equal(here[slide], there[slide]) for slide in here | there)
    labels = read_labels(FeatureTables(), one, "x").slides
    assert labels.keys() == here.keys()
    assert len({own.patient for own in labels.values()}) == 8
    assert {len(own) for own in here.values()} <= {4, 5, 6}
    south = vectors(generated_bags(tmp_path / "x", "south", ("a", "b"), SMALL))
    dealt = vectors(generated_bags(tmp_path / "x", None, ("a", "b"), SMALL))
    north, south, dealt = (np.concatenate(list(part.values())).mean(0) for part in (here, south, dealt))
    assert np.linalg.norm(north - south) > 2
    assert np.linalg.norm(dealt) < np.linalg.norm(north)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patients": 5}, "is at least 6"),
        ({"tiles": (9, 3)}, "least and the most"),
        ({"telling": 5}, "tell"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(tmp_path, changes, reason):
    with pytest.raises(MedflError, match=reason):
        generated_bags(tmp_path, "north", ("a", "b"), SMALL.model_copy(update=changes))
