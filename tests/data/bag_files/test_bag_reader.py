"""Files of features: what is read of them, and a reason for each that is no bag."""

import pickle

import h5py
import numpy as np
import pytest
import torch

from medfl.data.bag_files import bag_reader
from medfl.data.bag_files.bag_reader import read_bag, read_header
from medfl.data.bag_store import FeatureOrigin
from medfl.data.rgb import Unreadable
from tests.bags import bag, h5

STAMP = {"extractor": "uni2", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224}


@pytest.mark.parametrize(
    ("name", "attrs", "place", "origin"),
    [
        ("features", {}, {"patch_size": 256, "target_magnification": 20}, FeatureOrigin("", "256 px at 0.5 mpp")),
        ("feats", STAMP, {}, FeatureOrigin("uni2", "224 px at 1.14 mpp")),
        ("feats", {"extractor": b"ctp", "unit": "um", "tile_size": 256.0}, {}, FeatureOrigin("ctp", "256 microns")),
        ("features", {}, {"patch_size": 256, "patch_level": 0}, FeatureOrigin()),
        ("features", {}, {"patch_size": 256, "target_magnification": -1}, FeatureOrigin()),
    ],
)
def test_files_of_other_tools_say_what_made_them(tmp_path, name, attrs, place, origin):
    file = h5(tmp_path / "a.h5", bag(0), name=name, attrs=attrs, place=place)
    header = read_header(file)
    assert (header.instances, header.dim, header.half, header.origin) == (3, 6, False, origin)
    features, coords = read_bag(file)
    np.testing.assert_array_equal(features, bag(0))
    assert coords.shape == (3, 2)


def test_numbers_keep_sixteen_bits_and_lose_sixty_four(tmp_path):
    for dtype, there in ((np.float16, np.float16), (np.float64, np.float32)):
        file = h5(tmp_path / "a.h5", bag(0)[None].astype(dtype), coords=None)
        assert read_bag(file)[0].dtype == there
        assert read_bag(file)[0].shape == (3, 6)
        torch.save(torch.from_numpy(bag(0).astype(dtype)), tmp_path / "a.pt")
        assert read_bag(tmp_path / "a.pt")[0].dtype == there
        assert read_header(tmp_path / "a.pt").half == (there is np.float16)


def test_a_mapping_of_tensors_is_read_too(tmp_path):
    torch.save({"feats": torch.from_numpy(bag(0)).bfloat16(), "coords": torch.zeros(3, 2)}, tmp_path / "a.pt")
    features, coords = read_bag(tmp_path / "a.pt")
    assert (features.dtype, coords.shape) == (np.float32, (3, 2))


def nan(rows):
    features = bag(0)
    features[:rows, 2] = np.nan
    return features


@pytest.mark.parametrize(
    ("features", "options", "reason"),
    [
        (np.zeros((0, 6), np.float32), {}, "it holds no tile"),
        (np.zeros(6, np.float32), {"coords": None}, r"shape \[6\], not \[tiles, numbers\]"),
        (np.zeros((3, 6), np.int32), {}, "of type int32"),
        (nan(2), {}, "2 of its 3 tiles are not finite"),
        (bag(0), {"coords": np.zeros((2, 2))}, r"features of 3 tiles and coords of the shape \[2, 2\]"),
        (bag(0), {"name": "embeddings"}, "no data set `features` or `feats`, only coords, embeddings"),
    ],
)
def test_what_is_no_bag_is_refused_with_a_reason(tmp_path, features, options, reason):
    file = h5(tmp_path / "a.h5", features, **options)
    with pytest.raises(Unreadable, match=reason):
        read_bag(file)


def test_a_truncated_file_an_empty_one_and_one_of_another_kind(tmp_path):
    file = h5(tmp_path / "a.h5", np.tile(bag(0), (200, 1)))
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\xff\xd8\xff picture"):
        file.write_bytes(content)
        with pytest.raises(Unreadable, match="no whole HDF5 file"):
            read_header(file)
    torch.save(torch.from_numpy(np.tile(bag(0), (200, 1))), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"picture"):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(Unreadable):
            read_bag(tmp_path / "a.pt")


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return self.mark.touch, ()


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_objects_are_never_unpickled(tmp_path, save):
    save({"features": Bomb(tmp_path / "exploded")}, tmp_path / "a.pt")
    with pytest.raises(Unreadable, match="objects besides tensors"):
        read_bag(tmp_path / "a.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(["a"], "a list"), ({"other": 1}, "a dict"), (torch.zeros(3, 6, dtype=torch.int64), "of torch.int64")],
)
def test_a_file_of_pytorch_without_features(tmp_path, content, reason):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(Unreadable, match=reason):
        read_header(tmp_path / "a.pt")


def test_numbers_of_other_files_are_not_reached(tmp_path):
    other = h5(tmp_path / "other.h5", bag(0))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = h5py.ExternalLink(str(other), "features")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        layout = h5py.VirtualLayout((3, 6), "f4")
        layout[:] = h5py.VirtualSource(str(other), "features", (3, 6))
        file.create_virtual_dataset("features", layout)
    for name in ("a.h5", "b.h5"):
        with pytest.raises(Unreadable, match="no data set"):
            read_bag(tmp_path / name)


def test_a_shape_that_is_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_reader, "MOST_NUMBERS", 17)
    with pytest.raises(Unreadable, match="more than 17 numbers"):
        read_bag(h5(tmp_path / "a.h5", bag(0)))
