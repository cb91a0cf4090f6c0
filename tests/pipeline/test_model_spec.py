"""A model of the registry to start from: fetched, held to its version and digest, found at a site by that digest."""

import hashlib
import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.model.lora import Lora
from medfl.pipeline import model_spec
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.pipeline.model_spec import as_saved, model_at_a_site, pinned
from medfl.tracking.download import Fetched
from tests.tiny import CLASSES, write_tiny


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registered model; and the references that were asked for."""
    folder, asked = tmp_path / "registered", []
    folder.mkdir()
    model = FlatModel(ModelSpec("test_byobnet", tuple(CLASSES)), torch.device("cpu"), 1)
    save_file(model.state_dict(model.weights(), model.buffers()), folder / "model.safetensors")
    facts = {"run": "first", "backbone": "test_byobnet", "args": {}, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    (folder / "model.json").write_text(json.dumps(facts))

    def fetch(reference, tracking):
        asked.append(reference)
        return Fetched(folder, "first", "0" * 32, "models:/tissue/3")

    monkeypatch.setattr(model_spec, "fetch_model", fetch)
    model_spec._fetched_once.cache_clear()
    yield folder, asked
    model_spec._fetched_once.cache_clear()


def test_a_run_begins_with_a_version_of_the_registry(registry, tmp_path):
    folder, asked = registry
    pipeline = load_pipeline(write_tiny(tmp_path, model={"weights": "models:/tissue@best", "train": "head"}))
    held = pinned(pipeline)
    assert held.model.weights == "models:/tissue/3"
    assert held.model.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (tmp_path / "again.yaml").write_text(dump_pipeline(held))
    again = load_pipeline(tmp_path / "again.yaml")
    assert pinned(again) == again == held
    assert asked == ["models:/tissue@best", "models:/tissue/3"]  # a version is fetched once
    at_site = model_at_a_site(again)
    assert (at_site.backbone, at_site.weights, at_site.sha256) == ("test_byobnet", str(folder), held.model.sha256)
    everything = load_pipeline(write_tiny(tmp_path, model={"weights": "models:/tissue/3"}))
    assert model_at_a_site(everything).weights == "random"


def test_what_a_pipeline_says_of_its_head_and_adapters(tmp_path):
    def spec(**model):
        return model_spec.model_spec(load_pipeline(write_tiny(tmp_path, model={"backbone": "test_vit", **model})))

    assert (spec().hidden, spec(head="mlp").hidden, spec(head="mlp", hidden=7).hidden) == (None, 256, 7)
    assert spec(train={"lora": {}}).train == Lora(8, 16.0, ("qkv", "proj"))
    assert spec(train={"blocks": 2}).train == 2
    assert spec(pooling="cls+avg").pooling == "cls+avg"
    adapted = load_pipeline(write_tiny(tmp_path, model={"backbone": "test_vit", "train": {"lora": {}}}))
    assert as_saved(adapted).model.train == "all"
    assert yaml.safe_load(dump_pipeline(adapted))["model"]["train"]["lora"]["targets"] == ["qkv", "proj"]
