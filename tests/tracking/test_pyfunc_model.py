"""What a run does to patches before the model sees them goes along with the model that is served."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest

from medfl.data.normalise import FIXED, normalise, stain_statistics
from medfl.data.synthetic.tissue import draw_copies
from medfl.data.transforms import serving
from medfl.runs.model_facts import model_rendering, read_model_facts
from medfl.runs.records import finished_run
from medfl.tracking.log_model import portable, requirements, save_model
from tests.runfolders import SIZE, FakeRun, probabilities

RENDER = ["NormalizeHEStainsd", {"GaussNoise": {"std_range": [0.1, 0.2]}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FakeRun(tmp_path_factory.mktemp("served") / "a").whole().folder


def test_a_served_model_draws_patches_as_its_run_did(folder, tmp_path):
    run = finished_run(folder)
    facts = portable(json.loads((folder / "model.json").read_text()), folder) | {"render": RENDER}
    saved = save_model(run, facts, tmp_path, "m-1", "r-1")
    patches = np.concatenate([draw_copies("lung_aca", 1, 0, SIZE, 2), draw_copies("lung_n", 1, 0, SIZE, 2)])
    table = mlflow.pyfunc.load_model(str(saved)).predict(patches).to_numpy()
    np.testing.assert_allclose(table, probabilities(folder, serving(RENDER)(patches)), atol=1e-5)
    assert np.abs(table - probabilities(folder, patches)).max() > 1e-3  # without them it would say otherwise
    needed = (saved / "requirements.txt").read_text()
    assert all(f"{name}==" in needed for name in ("albumentations", "monai", "opencv-python-headless"))
    carried = [path.read_text() for path in saved.rglob("served_rendering/*.py")]
    assert len(carried) == 5
    assert not [text for text in carried if "from medfl" in text or "import medfl" in text]


def test_a_served_model_normalises_the_patches_of_a_laboratory_or_refuses_them(folder, tmp_path):
    reference = FIXED["reinhard"]
    facts = portable(json.loads((folder / "model.json").read_text()), folder)
    facts |= {"normalise": {"method": "reinhard", "reference": reference.numbers}}
    saved = save_model(finished_run(folder), facts, tmp_path, "m-1", "r-1")
    model = mlflow.pyfunc.load_model(str(saved))
    patches = np.concatenate([draw_copies("lung_aca", tile, 0, SIZE, 10) for tile in range(7)])  # two batches
    seen = normalise(patches, stain_statistics(patches), reference)
    np.testing.assert_allclose(model.predict(patches).to_numpy(), probabilities(folder, seen), atol=1e-5)
    with pytest.raises(ValueError, match="give at least 16 of one laboratory at once"):
        model.predict(patches[:5])
    assert {path.name for path in saved.rglob("served_*/*.py")} == {"__init__.py", "normalise.py", "optics.py"}
    assert "monai" not in (saved / "requirements.txt").read_text()


def test_a_model_without_transforms_carries_and_needs_nothing_more():
    assert requirements() == requirements([])
    assert not {"monai", "albumentations"} & {pin.partition("==")[0] for pin in requirements()}


def test_a_model_of_an_earlier_medfl_has_the_transforms_of_its_pipeline():
    pipeline = {"data": {"render": RENDER}}
    assert model_rendering({}, pipeline) == RENDER
    assert model_rendering({}, None) == model_rendering({}, {"data": {}}) == []
    assert model_rendering({"render": []}, pipeline) == []


@pytest.mark.parametrize("render", ["Flipd", [1], [["Flipd"]], [{"Flipd": 3}]])
def test_facts_that_state_no_transforms_are_refused(folder, tmp_path, render):
    facts = json.loads((folder / "model.json").read_text()) | {"render": render}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(Exception, match="`render`"):
        read_model_facts(tmp_path / "model.json")


@pytest.mark.parametrize("vector", [[1.0], {"scale": [1.0], "bias": [0.0]}, {"scale": [], "bias": []}, {"scale": 1}])
def test_facts_that_state_no_scale_for_every_class_are_refused(folder, tmp_path, vector):
    facts = json.loads((folder / "model.json").read_text()) | {"calibration": vector}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(Exception, match="`calibration`"):
        read_model_facts(tmp_path / "model.json")
