"""Features on the disk: found again by what shaped them, and by nothing else; a damaged file counts as absent."""

import torch

from medfl.data.feature_file import feature_file, load_features, save_features


def test_what_is_kept_comes_back(tmp_path, caplog):
    features = torch.randn(5, 3)
    file = feature_file(tmp_path, {"view": 0, "frozen": "a"})
    assert file == feature_file(tmp_path, {"frozen": "a", "view": 0})
    assert file != feature_file(tmp_path, {"view": 1, "frozen": "a"})
    assert load_features(file, 5) is None
    save_features(file, features)
    assert torch.equal(load_features(file, 5), features)
    assert load_features(file, 6) is None
    save_features(tmp_path / "absent" / "x", features)
    assert "could not be kept" in caplog.text


def test_a_damaged_file_counts_as_absent(tmp_path):
    file = tmp_path / "x.safetensors"
    save_features(file, torch.randn(5, 3))
    whole = file.read_bytes()
    for spoilt in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"x" * 40):
        file.write_bytes(spoilt)
        assert load_features(file, 5) is None
