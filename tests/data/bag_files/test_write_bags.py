import numpy as np
import pytest

from medfl.config import FeatureTables
from medfl.data.bag_files.bag_layout import find_bags
from medfl.data.bag_files.bag_reader import read_bag, read_header
from medfl.data.bag_files.label_table import read_labels
from medfl.data.bag_files.write_bags import TileGrid, features_folder, write_bag, write_label_table
from tests.bags import bag


def test_what_is_written_is_read_back_as_a_folder_of_trident(tmp_path):
    grid, coords = TileGrid(224, 1.0, 32, base_mpp=0.25), np.array([[0, 0], [0, 192], [9, 9]])
    folder = features_folder(tmp_path, "uni", grid)
    assert folder == tmp_path / "10x_224px_32px_overlap/features_uni"
    file = write_bag(folder, "s.1", bag(0), coords, "uni", grid)
    layout = find_bags(tmp_path, "site a")
    assert (layout.tool, tmp_path / layout.files["s.1"]) == ("TRIDENT", file)
    assert str(read_header(file).origin) == "uni, 224 px at 1 mpp"
    features, there = read_bag(file)
    np.testing.assert_array_equal(features, bag(0))
    np.testing.assert_array_equal(there, coords)
    write_label_table(tmp_path, [("p1", "s.1", "a")])
    assert read_labels(FeatureTables(), tmp_path, "x").slides["s.1"].patient == "p1"


def test_arrays_of_other_tiles_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"features \[3, 6\] and coords \[2, 2\]"):
        write_bag(tmp_path, "s", bag(0), np.zeros((2, 2)), "uni", TileGrid())
