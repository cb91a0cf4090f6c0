"""A trained model as a function: what it takes, and that it says what `medfl predict` says."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import medfl
from medfl.errors import MedflError
from medfl.pipeline.evaluate_model import scores
from medfl.pipeline.trained_model import find_model
from tests.paths import ROOT

RUN = ROOT / "tests" / "fixtures" / "version_0_1" / "run"


@pytest.fixture(scope="module")
def model():
    return medfl.load_model(RUN)


@pytest.fixture(scope="module")
def images(model):
    return np.random.default_rng(0).integers(0, 256, (5, model.size, model.size, 3), dtype=np.uint8)


def test_probabilities_are_the_calibrated_ones(model, images):
    probabilities = model.predict_proba(images, batch_size=2)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (5, len(model.classes))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities, scores(find_model(str(RUN)), images), atol=1e-6)
    assert model.predict(images) == [model.classes[row] for row in probabilities.argmax(1)]


@pytest.mark.parametrize(
    "form",
    [
        torch.from_numpy,
        lambda images: torch.from_numpy(images).permute(0, 3, 1, 2),
        lambda images: torch.from_numpy(images).permute(0, 3, 1, 2) / 255,
        lambda images: [Image.fromarray(image) for image in images],
        list,
    ],
)
def test_the_same_patches_in_other_forms(model, images, form):
    np.testing.assert_array_equal(model.predict_proba(form(images)), model.predict_proba(images))


def test_other_sizes_are_resized_as_in_a_folder(model, tmp_path):
    large = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    from medfl.pipeline.evaluate_model import predict

    ((_, row),) = predict(find_model(str(RUN)), tmp_path)
    np.testing.assert_allclose(model.predict_proba(large)[0], row, atol=1e-6)
    assert model.predict_proba([large, large[:32, :32]]).shape[0] == 2
    assert model.predict_proba([]).shape == (0, len(model.classes))


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 4, 4, 5), np.uint8), np.zeros((1, 4, 4, 3)) - 1, [np.zeros((4, 4, 3), int)], 7]
)
def test_what_is_no_image_is_said(model, wrong):
    with pytest.raises(MedflError, match="`images`:"):
        model.predict_proba(wrong)


def test_a_folder_of_the_model_alone_will_do(model, images, tmp_path):
    for name in ("model.json", "model.safetensors"):
        shutil.copy(RUN / name, tmp_path)
    np.testing.assert_array_equal(medfl.load_model(tmp_path).predict_proba(images), model.predict_proba(images))


def test_a_network_beside_timms_is_refused():
    with pytest.raises(MedflError, match="leave `network` out"):
        medfl.load_model(RUN, network=torch.nn.Identity())
