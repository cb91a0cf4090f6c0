"""The instruments of the leak measurements by hand, and the CSVs that the page of privacy quotes."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from benchmarks import leaks
from tests.toys import toy_bench, toy_store


def test_the_features_of_one_patch_are_in_the_gradients_of_the_classifier():
    model = toy_bench(backbone="test_efficientnet_gn").model
    images, labels = torch.rand(1, 3, 32, 32), torch.tensor([2])
    model.net.eval()
    told = leaks.class_features(leaks.gradient_of(model, images, labels), 2)
    with torch.no_grad():
        assert float(cosine_similarity(told, model.features(images)[0], dim=0)) > 0.9999


def test_an_image_is_sought_within_the_range_of_pixels():
    model = toy_bench(backbone="test_efficientnet_gn").model
    model.net.eval()
    true, labels = torch.rand(1, 3, 32, 32), torch.tensor([1])
    wanted = leaks.gradient_of(model, true, labels)
    found = leaks.invert(model, wanted, true.shape, labels, 3)
    pixels = found * torch.tensor(model.std).view(3, 1, 1) + torch.tensor(model.mean).view(3, 1, 1)
    assert found.shape == true.shape
    assert -1e-5 < float(pixels.min()) < float(pixels.max()) < 1 + 1e-5


def test_likeness_of_images():
    one = torch.zeros(3, 16, 16)
    assert leaks.psnr(one, one + 0.1) == pytest.approx(20.0)
    store = toy_store("a", 0)
    rows = store.splits["test"]
    expected = torch.from_numpy(store.images[rows[store.labels[rows] == 1]].mean(axis=0) / 255).permute(2, 0, 1)
    torch.testing.assert_close(leaks.mean_image(store, rows, 1), expected.float())
