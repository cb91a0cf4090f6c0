"""The shipped pipeline of a foundation model, on a folder of a small one: adapted, resumed, over bytes, saved plain."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medfl.engines.nvflare.run_layout import lay_out
from medfl.errors import MedflError
from medfl.model import timm_network
from medfl.pipeline.evaluate_model import evaluate, scores
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.patch_gallery import gallery
from medfl.pipeline.run import resume, run
from medfl.pipeline.trained_model import find_model
from medfl.report.run_results import read_evidence
from medfl.runs.model_facts import read_model_facts
from medfl.runs.progress import ProgressCallbacks
from tests.engines.remote.test_endpoints import same_result, spoken
from tests.hub_folder import MEAN, write_hub_folder
from tests.paths import ROOT
from tests.tiny import TINY

SMALL = {
    "task": TINY["task"],
    "data": TINY["data"],
    "sites.generate.count": 2,
    "sites.generate.held_out": 1,
    "sites.generate.patches": 45,
    "training.rounds": 2,
    "training.batch_size": 8,
    "training.threads": 1,
    "evaluation.resamples": 100,
    "tracking.enabled": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hub_folder(tmp_path_factory.mktemp("foundation") / "encoder", global_pool="")


def stated(folder, **changes):
    settings = {**SMALL, "model.weights": f"local-dir:{folder}", "model.train.lora.rank": 2, **changes}
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(ROOT / "pipelines" / "foundation.yaml", stated(folder, **{"model.pooling": "cls+avg"}))


@pytest.fixture(scope="module")
def finished(pipeline, tmp_path_factory):
    return run(pipeline, tmp_path_factory.mktemp("runs") / "run").folder


def test_what_is_saved_is_a_plain_network_of_timms(finished, folder):
    began, saved = load_file(folder / "model.safetensors"), load_file(finished.model)
    adapted = {f"blocks.{block}.attn.{layer}.weight" for block in (0, 1) for layer in ("qkv", "proj")}
    assert saved.keys() - began.keys() == {"head.weight", "head.bias"}
    assert {name for name in began if not torch.equal(began[name], saved[name])} == adapted
    facts = read_model_facts(finished.model_json)
    assert facts["train"] == {"lora": {"rank": 2, "alpha": 16.0, "targets": ["qkv", "proj"]}}
    assert (facts["pooling"], facts["mean"]) == ("cls+avg", list(MEAN))
    assert facts["trained_parameters"] == 2 * 2 * (48 + 16) + 3 * 33
    record = next(iter(finished.records()))
    assert record["sites"]["site-01"]["bytes_up"] == 4 * facts["trained_parameters"]


def test_measured_again_served_and_shown_it_is_the_model_of_the_run(finished):
    found = find_model(str(finished.path))
    again = evaluate(found)
    assert again["held_out"]["mean_auroc"] == pytest.approx(finished.read_summary()["held_out"]["mean_auroc"], abs=1e-6)
    from medfl.tracking.pyfunc_model import PathologyClassifier

    served = PathologyClassifier()
    artifacts = {"weights": str(finished.model), "config": str(finished.model_json), "network": timm_network.__file__}
    served.load_context(SimpleNamespace(artifacts=artifacts))
    patches = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(served.predict(None, patches).to_numpy(), scores(found, patches), atol=1e-5)
    assert "misclassified" in str(gallery(read_evidence(finished.path)))


def test_resumed_and_over_bytes_it_is_the_same_run(pipeline, finished, tmp_path):
    def stop(record, rounds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipeline, tmp_path / "run", ProgressCallbacks(round=stop))
    same_result(finished, resume(tmp_path / "run").folder)
    laid = lay_out(pipeline, "simulator", tmp_path / "far")
    assert spoken(laid) == {"done": True}
    same_result(finished, laid.folder)


def test_the_next_run_begins_where_this_one_ended(finished, tmp_path):
    """From the run's folder alone: what was adapted is part of the weights, and a new factor starts at zero."""
    settings = [*stated(finished.path, **{"training.rounds": 1}), f"model.weights={finished.path}"]
    begun = run(load_pipeline(ROOT / "pipelines" / "foundation.yaml", settings), tmp_path / "run").folder
    facts, first = json.loads(begun.model_json.read_text()), next(iter(begun.records()))
    assert (facts["pooling"], facts["backbone"]) == ("cls+avg", "vit_tiny_patch16_224")
    assert facts["start"]["origin"] == f"the model of the run {finished.path.name}"
    assert facts["start"]["licence"] == "x-1.0"
    last = list(finished.records())[-1]
    for site in ("site-01", "site-02"):  # the classes are the same, so is the head
        assert first["sites"][site]["val"]["auroc"] == pytest.approx(last["sites"][site]["val"]["auroc"], abs=1e-6)


def test_tokens_without_pooling_are_refused(folder, tmp_path):
    with pytest.raises(MedflError, match=r"of shape \[2, 18, 3\].*`model\.pooling`"):
        run(load_pipeline(ROOT / "pipelines" / "foundation.yaml", stated(folder)), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.train": {"lora": {}, "blocks": 1}}, "state one of `blocks` and `lora`"),
        ({"model.train": {"lora": {"rnk": 3}}}, "`model.train.lora.rnk` is not a key"),
        ({"model.hidden": 3}, "the width of `head: mlp`"),
        ({"model.pooling": "mean"}, "`model.pooling`: input should be 'cls', 'avg', 'cls+avg' or 'stages'"),
        ({"training.optimizer.layer_decay": 1.5}, "`training.optimizer.layer_decay`"),
        ({"training.augment.views": 2}, "`model.train: head`"),
    ],
)
def test_keys_that_contradict_are_refused(folder, changes, words):
    settings = {**SMALL, "model.weights": f"local-dir:{folder}", **changes}
    with pytest.raises(MedflError) as caught:
        load_pipeline(
            ROOT / "pipelines" / "foundation.yaml", [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        )
    assert words in str(caught.value)
