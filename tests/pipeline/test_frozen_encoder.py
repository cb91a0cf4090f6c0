"""The frozen encoder: its vectors, its name, and that a model.json brings the same one back."""

import numpy as np
import pytest
import torch

from medfl import config
from medfl.errors import MedflError
from medfl.model.backbone import ModelSpec, create
from medfl.pipeline.frozen_encoder import FrozenEncoder, encoder_of

STATED = config.TileEncoder(backbone="test_resnet", weights="random")


@pytest.fixture(scope="module")
def encoder():
    return FrozenEncoder(STATED, device="cpu")


def test_its_vectors_are_what_the_networks_classifier_receives(encoder, tmp_path):
    tiles = np.random.default_rng(0).integers(0, 256, (35, 32, 32, 3), dtype=np.uint8)
    vectors = encoder(tiles)
    assert vectors.shape == (35, encoder.dim)
    assert vectors.dtype == np.float32
    model = encoder._shared.model
    images = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(model.std).view(3, 1, 1)
    with torch.inference_mode():
        due = model.net.forward_head(model.net.forward_features(images), pre_logits=True)
    np.testing.assert_allclose(vectors, due.numpy(), atol=1e-5)


def test_its_name_says_whatever_shapes_its_vectors(encoder, tmp_path):
    net = create(ModelSpec("test_resnet", ("a", "b")), 5).net
    torch.save(net.state_dict(), tmp_path / "other.pt")
    other = {"backbone": "test_resnet", "weights": str(tmp_path / "other.pt"), "input": "timm"}
    given = {"input": {"mean": (0.4, 0.5, 0.6), "std": (0.5, 0.5, 0.5)}}
    stated = [{}, other, {"pooling": "stages"}, {**other, **given}]
    names = [FrozenEncoder(config.TileEncoder.model_validate({**STATED.model_dump(), **each})).name for each in stated]
    assert names[0] == encoder.name
    assert len(set(names)) == len(names)
    assert all(name.startswith("test_resnet-") for name in names)


def test_a_model_json_brings_it_back_or_says_that_its_weights_are_others(encoder):
    assert encoder_of({"encoder": encoder.facts}, "model.json").name == encoder.name
    with pytest.raises(
        MedflError, match=r"model.json: the encoder of this model is uni-1, and `random` gives test_resnet"
    ):
        encoder_of({"encoder": {**encoder.facts, "name": "uni-1"}}, "model.json")


def test_a_size_that_the_network_does_not_take_is_a_sentence():
    vit = FrozenEncoder(
        config.TileEncoder(backbone="test_vit", weights="random", args={"dynamic_img_size": False}), device="cpu"
    )
    with pytest.raises(MedflError, match=r"`model.encoder`: test_vit does not take tiles of 48 px"):
        vit(np.zeros((1, 48, 48, 3), np.uint8))
