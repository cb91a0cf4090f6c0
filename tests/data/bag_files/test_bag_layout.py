import pytest

from medfl.data.bag_files.bag_layout import find_bags, slide_name
from medfl.data.bag_store import FeatureOrigin
from medfl.errors import MedflError
from tests.bags import TOOLS, bag, h5, write_layout

SLIDES = {"s.1": bag(1), "s-2": bag(2, 5)}


@pytest.mark.parametrize("tool", TOOLS)
def test_each_layout_is_told(tmp_path, tool):
    layout = find_bags(write_layout(tmp_path, tool, SLIDES), "site a")
    assert (layout.tool, list(layout.files)) == (tool, ["s-2", "s.1"])
    assert all((tmp_path / path).is_file() for path in layout.files.values())
    by_folder = {"TRIDENT": FeatureOrigin("uni"), "slideflow": FeatureOrigin("uni", "256 px at 0.5 mpp")}
    assert layout.origin == by_folder.get(tool, FeatureOrigin())
    if tool == "CLAM":
        assert all(path.startswith("h5_files/") for path in layout.files.values())


def test_any_folder_of_a_layout_may_be_the_root(tmp_path):
    write_layout(tmp_path, "TRIDENT", SLIDES)
    for root in (tmp_path, tmp_path / "20x_256px_0px_overlap", tmp_path / "20x_256px_0px_overlap/features_uni"):
        assert find_bags(root, "site a").origin.encoder == "uni"


def test_features_of_two_encoders_have_to_be_told_apart(tmp_path):
    write_layout(tmp_path, "TRIDENT", SLIDES)
    h5(tmp_path / "20x_256px_0px_overlap/features_conch/s-2.h5", bag(1))
    with pytest.raises(MedflError, match=r"^site a: .*features_conch, .*features_uni; name one of these folders"):
        find_bags(tmp_path, "site a")


def test_two_files_of_a_slide_and_none_of_any(tmp_path):
    for name in ("a", "b"):
        h5(tmp_path / f"features_uni/{name}/s.h5", bag(1))
    with pytest.raises(MedflError, match=r"two files of the slide s: features_uni/a/s.h5, features_uni/b/s.h5"):
        find_bags(tmp_path, "site a")
    (tmp_path / "empty/slides").mkdir(parents=True)
    with pytest.raises(MedflError, match=r"site a: no features in .*empty \(`data.root`\); name a folder as TRIDENT"):
        find_bags(tmp_path / "empty", "site a")


@pytest.mark.parametrize("text", ["{", "[]", '{"extractor": {}}', '{"extractor": {"class": 3}}'])
def test_a_configuration_of_slideflow_that_says_nothing(tmp_path, text):
    write_layout(tmp_path, "slideflow", SLIDES)
    (tmp_path / "bags_config.json").write_text(text)
    with pytest.raises(MedflError, match=r"bags_config.json does not say which `extractor`"):
        find_bags(tmp_path, "site a")


@pytest.mark.parametrize("text", ["s.1", "s.1.svs", "x/s.1.h5", r"x\s.1.NDPI"])
def test_a_slide_is_its_file_without_folder_and_known_ending(text):
    assert slide_name(text) == "s.1"
