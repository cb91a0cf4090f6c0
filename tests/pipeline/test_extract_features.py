"""Features of slides as TRIDENT lays them out: read back, gone on with, and what is in the way."""

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from medfl import config
from medfl.cli.app import app
from medfl.data.bag_store import FeatureOrigin
from medfl.data.partition import make_partition
from medfl.data.render_bags import render_bags
from medfl.errors import MedflError
from medfl.pipeline.extract_features import extract_features
from medfl.pipeline.site_slides import site_slides
from tests.datafiles import pipeline, site
from tests.encoders import MeanColour, ward

pytest.importorskip("openslide")
FOLDER = "10x_32px_0px_overlap/features_mean"


@pytest.fixture
def root(tmp_path):
    return ward(tmp_path / "ward")


def extract(root, encoder=None, **data):
    stated = {"source": "slides", "size": 32, "mpp": 1.0, "cache": str(root.parent / "cache"), **data}
    slides = site_slides(str(root), config.Data.model_validate(stated))
    said = []
    return extract_features(slides, encoder or MeanColour(), 32, root.parent / "job", "mean", said.append), said


def test_the_folder_reads_back_with_encoder_pixels_and_scale(root):
    result, said = extract(root)
    assert result.folder == root.parent / "job" / FOLDER
    assert len(result.written) == 7
    assert said[1] == "s0.tif: 4 tiles"
    data = {"source": "features", "mode": "own", "root": root.parent / "job", "cache": root.parent / "cache"}
    plan = pipeline([site("here")], classes=("tumour", "normal"), **data)
    model = config.ModelConfig(mil="abmil", dim=3)
    plan = plan.model_copy(update={"model": model})
    [share] = make_partition(plan).sites
    store = render_bags(plan, share, share.catalog.source)
    assert store.origin == FeatureOrigin("mean", "32 px at 1 mpp")
    assert {store.group_names[group] for group in store.groups} == {f"P{n}" for n in range(6)}
    assert store.sizes.tolist() == [4] * 6
    with h5py.File(result.folder / "s0.h5") as file:
        assert file["coords"][...].tolist() == [[0, 0], [32, 0], [0, 32], [32, 32]]
        assert file["coords"].attrs["patch_size_level0"] == 32
        assert file["coords"].attrs["name"] == "s0"


def test_it_goes_on_slide_by_slide_and_makes_anew_what_changed(root):
    extract(root)
    (root.parent / "job" / FOLDER / "s3.h5").unlink()
    (root / "s4.tif").write_bytes((root / "s5.tif").read_bytes())
    encoder = MeanColour()
    result, said = extract(root, encoder)
    assert (result.written, len(result.present), encoder.seen) == (("s3.tif", "s4.tif"), 5, 8)
    assert said[1] == "s0.tif: 4 tiles, there already"


def test_a_damaged_slide_is_named_and_the_others_are_written(root):
    (root / "s2.tif").write_bytes(b"")
    result, _ = extract(root)
    assert result.damaged == ("s2.tif (zero bytes)",)
    assert len(result.written) == 6
    assert "s2" not in result.table.read_text()


def test_what_another_tool_wrote_stays(root):
    folder = root.parent / "job" / FOLDER
    folder.mkdir(parents=True)
    with h5py.File(folder / "s0.h5", "w") as file:
        file["features"] = np.zeros((1, 3), np.float32)
    with pytest.raises(MedflError, match=r"s0.h5 is there and is none of this command's"):
        extract(root)
    (folder / "s0.h5").unlink()
    (root.parent / "job" / "slides.csv").write_text("patient,slide,label\nX,y,z\n")
    assert extract(root)[0].table is None
    assert "X,y,z" in (root.parent / "job" / "slides.csv").read_text()


def test_two_slides_of_one_name_are_refused(root):
    (root / "more").mkdir()
    (root / "more" / "s0.tif").write_bytes((root / "s0.tif").read_bytes())
    (root / "slides.csv").unlink()
    with pytest.raises(MedflError, match=r"several slides .* are called s0"):
        extract(root)


def test_the_command_says_what_was_written_and_how_to_read_it(root, monkeypatch):
    monkeypatch.setenv("MEDFL_CACHE", str(root.parent / "cache"))
    out = str(root.parent / "job")
    asked = ["features", "extract", str(root), "--out", out, "--px", "32", "--mpp", "1"]
    result = CliRunner().invoke(app, [*asked, "--weights", "random", "--backbone", "test_resnet"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "7 written, 0 there already" in said
    assert "`model.dim: 96`" in said
    for wrong, sentence in (
        ([], "--weights is missing"),
        (["--weights", "random"], "--weights: the key `backbone` is missing"),
        (["--weights", "package", "--overlap", "40"], "`tile.overlap` is 40 pixels"),
    ):
        error = CliRunner().invoke(app, [*asked, *wrong]).exception
        assert sentence in str(error)
