import pytest

from medfl.data.bag_store import FeatureOrigin, check_origins, common_origin
from medfl.errors import MedflError

UNI = FeatureOrigin("uni", "256 px at 0.5 mpp")


def test_another_encoder_is_refused_in_one_sentence():
    with pytest.raises(MedflError, match=r"^site b has features of conch, site a of uni; .*`data.features.encoder`"):
        check_origins({"a": UNI, "b": FeatureOrigin("conch")})


def test_tiles_of_another_size_are_a_warning_and_nothing_is_no_contradiction():
    [warning] = check_origins({"a": UNI, "c": FeatureOrigin(), "b": FeatureOrigin("uni", "256 px at 0.25 mpp")})
    assert warning.startswith("site b: its features show tiles of 256 px at 0.25 mpp, those of a of 256 px at 0.5 mpp")
    assert check_origins({}) == []


def test_what_is_common_is_what_any_site_says():
    assert common_origin([FeatureOrigin(), FeatureOrigin("uni"), UNI]) == UNI
    assert str(UNI) == "uni, 256 px at 0.5 mpp"
    assert str(FeatureOrigin()) == "unknown"
