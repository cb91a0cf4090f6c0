"""A model is measured on patches as its own run made them, whoever's pipeline says where the data lie."""

import pytest

from medfl import config
from medfl.pipeline import evaluate_model
from medfl.pipeline.evaluate_model import measure_model
from medfl.pipeline.trained_model import TrainedModel
from tests.datafiles import OWN


class Looked(Exception):
    """Ends a measurement once its rendering is known."""


@pytest.mark.parametrize("render", [[], ["NormalizeHEStainsd"]])
def test_the_models_transforms_replace_those_of_the_pipeline(tmp_path, monkeypatch, render):
    def look(pipeline):
        raise Looked(pipeline.data.render, pipeline.data.size)

    monkeypatch.setattr(evaluate_model, "SiteStores", look)
    monkeypatch.setattr(TrainedModel, "load", lambda model: (None, None, None))
    raw = {"name": "p", "task": {"classes": ["a", "b"]}, "data": {**OWN, "render": ["Flipd"]}}
    raw |= {"sites": {"train": ["a.yaml"]}, "model": {"backbone": "test_resnet"}, "training": {"rounds": 1}}
    facts = {"classes": ["a", "b"], "size": 48, "render": render}
    with pytest.raises(Looked) as seen:
        measure_model(
            TrainedModel(tmp_path, facts, None),
            [(config.Pipeline.model_validate(raw), config.SiteConfig(name="s"), None)],
        )
    assert seen.value.args == (render, 48)
