"""A run on a frozen backbone, from a file of weights to the model measured again: in one process and over bytes."""

import hashlib
import html
import shutil

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

from medfl.engines.nvflare.run_layout import lay_out
from medfl.engines.remote.site_endpoint import build
from medfl.engines.remote.site_policy import approve, pipeline_digest
from medfl.errors import MedflError
from medfl.metrics.site_signature import signature_sentence
from medfl.pipeline.evaluate_model import evaluate
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import resume, run
from medfl.pipeline.trained_model import find_model
from medfl.report.run_report import report_html
from medfl.runs.progress import ProgressCallbacks
from tests.engines.remote.test_endpoints import same_result, spoken
from tests.tiny import write_tiny

STILL = {"flips": False, "rotate90": False}
GIVEN = {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.2, 0.2]}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(1)
    save_file(timm.create_model("test_byobnet", num_classes=0).state_dict(), folder / "w.safetensors")
    model = {"backbone": "test_byobnet", "weights": "w.safetensors", "input": GIVEN, "train": "head", "licence": "mit"}
    return write_tiny(folder, name="frozen", model=model, training={"augment": STILL})


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    return run(load_pipeline(small), tmp_path_factory.mktemp("runs") / "run").folder


def test_what_a_run_leaves(small, finished):
    weights, model = load_file(small.with_name("w.safetensors")), load_file(finished.model)
    frozen = {name for name in weights if "num_batches" not in name}
    assert all(torch.equal(model[name], weights[name]) for name in frozen)
    found = find_model(str(finished.path))
    digest = hashlib.sha256(small.with_name("w.safetensors").read_bytes()).hexdigest()
    facts = found.facts
    assert facts["start"] == {"origin": "a file", "sha256": digest, "licence": "mit"}
    assert (facts["train"], facts["mean"], len(facts["frozen"])) == ("head", GIVEN["mean"], 64)
    assert facts["trained_parameters"] == sum(model[name].numel() for name in model.keys() - weights.keys())
    assert facts["parameters"] > facts["trained_parameters"]
    record = next(iter(finished.records()))
    assert record["sites"]["site-01"]["bytes_up"] == 4 * facts["trained_parameters"]
    again = evaluate(found)
    assert again["held_out"]["mean_auroc"] == pytest.approx(finished.read_summary()["held_out"]["mean_auroc"], abs=1e-9)


def test_how_well_the_site_is_told_is_in_the_summary_and_on_the_page(finished):
    signature = finished.read_summary()["site_signature"]
    assert signature.keys() == {"balanced_accuracy", "chance", "sites", "classes", "reason"}
    sentence = signature_sentence(signature)
    assert sentence.startswith("Site signature: ")
    assert sentence in html.unescape(report_html(finished.path))


def test_resumed_it_is_the_same_run_and_not_on_other_weights(small, finished, tmp_path):
    def stop(record, rounds):
        raise KeyboardInterrupt

    pipeline = load_pipeline(small)
    with pytest.raises(KeyboardInterrupt):
        run(pipeline, tmp_path / "run", ProgressCallbacks(round=stop))
    weights = small.with_name("w.safetensors")
    shutil.move(weights, tmp_path / "w")
    state = load_file(tmp_path / "w")
    save_file({name: tensor + 1 for name, tensor in state.items()}, weights)
    with pytest.raises(MedflError, match="has the sha256"):
        resume(tmp_path / "run")
    shutil.move(tmp_path / "w", weights)
    same_result(finished, resume(tmp_path / "run").folder)


def test_over_bytes_it_is_the_same_run(small, finished, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    assert spoken(laid) == {"done": True}
    same_result(finished, laid.folder)


def test_a_site_with_other_frozen_weights_is_refused_by_name(small, tmp_path, monkeypatch):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    file = laid.home / "site-02" / "pipeline.yaml"
    known = yaml.safe_load(file.read_text())
    assert known["model"]["sha256"]
    state = load_file(known["model"]["weights"])
    save_file({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "other.safetensors")
    known["model"] |= {"weights": str(tmp_path / "other.safetensors"), "sha256": None}
    file.write_text(yaml.safe_dump(known))
    approve(file.parent, pipeline_digest(file.parent))
    end = spoken(laid)
    assert "site site-02 has other frozen weights than the server" in end["message"]
    # Where the file is not where the kit says, it is found by its sha256.
    known["model"] |= {"weights": "/nowhere/w.safetensors", "sha256": laid.pipeline.model.sha256}
    file.write_text(yaml.safe_dump(known))
    approve(file.parent, pipeline_digest(file.parent))
    monkeypatch.delenv("MEDFL_WEIGHTS", raising=False)
    with pytest.raises(MedflError, match=r"no file /nowhere/w\.safetensors, and no folder MEDFL_WEIGHTS .*put"):
        build(laid.home / "site-02", "site-02")
    monkeypatch.setenv("MEDFL_WEIGHTS", str(small.parent))
    assert spoken(laid) == {"done": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"backbone": "test_byobnet"}, "training": {"augment": {"views": 2}}}, "needs|`model.train: head`"),
        (
            {
                "model": {"backbone": "test_byobnet", "train": "head"},
                "training": {"augment": {"views": 2}},
                "method": ["fedrdn"],
            },
            "fedrdn changes images in every step",
        ),
        (
            {"training": {"optimizer": {"clip": 1.0, "lr": 0.1, "momentum": 0}}, "method": ["pflalign"]},
            "`training.optimizer.clip` is of the optimiser, and pflalign has its own",
        ),
        (
            {"training": {"optimizer": {"layer_decay": 0.5, "lr": 0.1, "momentum": 0}}, "method": ["pflalign"]},
            "layer_decay` is of the optimiser, and pflalign has its own",
        ),
    ],
)
def test_keys_without_use_are_refused(tmp_path, change, words):
    with pytest.raises(MedflError, match=words):
        load_pipeline(write_tiny(tmp_path, **change))
