"""Runs that normalise stain or exchange dyes: over bytes and resumed the same, measured again, served or refused."""

import numpy as np
import pytest
import torch

from medfl.cli.dry_run import stain_sentences
from medfl.data.normalise import FIXED
from medfl.engines.nvflare.run_layout import lay_out
from medfl.errors import MedflError
from medfl.export.exported_model import ExportedModel
from medfl.messages import EvaluateRequest, TrainRequest
from medfl.pipeline.agree_stain import agree_stain
from medfl.pipeline.evaluate_model import evaluate, scores
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import resume, run
from medfl.pipeline.trained_model import find_model
from medfl.runs.model_facts import read_model_facts
from medfl.runs.progress import ProgressCallbacks
from tests.engines.remote.test_endpoints import same_result, spoken
from tests.tiny import TINY, WITH_BATCHNORM, write_tiny

HEAD = {"backbone": "test_byobnet", "train": "head"}


def normalising(folder, **changes):
    changes = {"training": {"rounds": 1}} | changes
    changes = {"model": WITH_BATCHNORM} | changes
    return load_pipeline(write_tiny(folder, data=TINY["data"] | {"normalise": "macenko"}, **changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stained")
    return run(normalising(folder), folder / "run").folder


def test_a_federated_reference_travels_and_the_model_says_it(finished):
    facts = read_model_facts(finished.model_json)
    assert facts["normalise"]["method"] == "macenko"
    assert len(facts["normalise"]["reference"]) == 8
    assert facts["normalise"]["reference"] != FIXED["macenko"].numbers
    again, then = evaluate(find_model(str(finished.path)))["held_out"], finished.read_summary()["held_out"]
    assert again["mean_auroc"] == pytest.approx(then["mean_auroc"], abs=1e-9)
    assert again["mean_ece"] == pytest.approx(then["mean_ece"], abs=1e-9)


def test_over_bytes_and_after_a_stop_it_is_the_same_run(finished, tmp_path):
    pipeline = normalising(tmp_path)
    laid = lay_out(pipeline, "simulator", tmp_path / "far")
    assert spoken(laid) == {"done": True}
    same_result(finished, laid.folder)
    facts = [read_model_facts(folder.model_json)["normalise"] for folder in (finished, laid.folder)]
    assert facts[0] == facts[1]

    def stop(record, rounds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipeline, tmp_path / "run", ProgressCallbacks(round=stop))
    same_result(finished, resume(tmp_path / "run").folder)


def test_patches_of_one_laboratory_are_normalised_or_refused(finished, tmp_path):
    model = find_model(str(finished.path))
    patches = np.asarray(next(iter(prepare(normalising(tmp_path)).sites.values())).store.images[:20])
    plain = scores(model.__class__(model.directory, model.facts | {"normalise": None}, model.run), patches)
    assert np.abs(scores(model, patches) - plain).max() > 1e-4
    with pytest.raises(MedflError, match="3 are too few to tell it; give at least 16 of one laboratory"):
        scores(model, patches[:3])
    with pytest.raises(MedflError, match="only empty slide"):
        scores(model, np.full_like(patches, 255))
    with pytest.raises(MedflError, match="neither an ONNX graph nor a bundle measures"):
        ExportedModel.of(model)


def test_a_model_that_says_a_stain_that_is_none_is_refused(finished, tmp_path):
    text = finished.model_json.read_text().replace('"macenko"', '"reinhard"')
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(MedflError, match="`normalise`"):
        read_model_facts(tmp_path / "model.json")


def test_pooled_data_are_normalised_site_by_site(tmp_path):
    setup = prepare(normalising(tmp_path, baseline="centralised"))
    pool = setup.line.sites["all_sites"]
    before, reference = np.asarray(pool.store.images), tuple(FIXED["macenko"].numbers)
    model = setup.shared.model
    pool.handle(EvaluateRequest(0, model.weights(), model.buffers(), (), stain_reference=reference))
    parts = [site.store for name, site in sorted(setup.sites.items()) if site.role == "train"]
    expected = np.concatenate([store.images[store.splits["train"]] for store in parts])
    assert np.array_equal(pool.store.images, expected)
    assert not np.array_equal(before, expected)
    assert pool.images.store is pool.store


def test_exchange_and_laboratories_shape_the_views_of_frozen_features(tmp_path):
    augment = {"flips": False, "rotate90": False, "views": 2}
    drawn = {}
    for name, own in {"none": {}, "stain": {"stain": 1.0}, "exchange": {"exchange": 0.5}}.items():
        setup = prepare(load_pipeline(write_tiny(tmp_path, name=name, model=HEAD, training={"augment": augment | own})))
        state = setup.initial_state()
        agree_stain(setup, state, print)
        assert (state.stains is not None) == (name == "exchange")
        site = setup.sites["site-01"]
        others = state.stains.others("site-01") if state.stains else ()
        site.take_stains(TrainRequest(0, state.weights, state.buffers, stain_others=others))
        assert site.features_once
        drawn[name] = (site.batches.plain, site.batches.drawn[0])
    assert torch.equal(drawn["none"][0], drawn["exchange"][0])
    moved = {name: (views - drawn["none"][1]).abs().amax(1) > 1e-6 for name, (_, views) in drawn.items()}
    assert moved["stain"].all()
    assert 0.2 < moved["exchange"].float().mean() < 0.8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline": "local_only", "training": {"augment": {"exchange": 0.5}}}, "gives sites the dyes of others"),
        (
            {"data": TINY["data"] | {"normalise": "reinhard"}, "training": {"augment": {"exchange": 0.5}}},
            "brings all patches to one stain",
        ),
        ({"data": TINY["data"] | {"normalise": "vahadane"}}, r"data\.normalise\.method"),
        ({"training": {"augment": {"stain": 1.5}}}, r"training\.augment\.stain"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, change, words):
    with pytest.raises(MedflError, match=words):
        load_pipeline(write_tiny(tmp_path, **change))


def test_what_is_on_is_said(tmp_path):
    pipeline = normalising(tmp_path, training={"augment": {"stain": 0.5}})
    words = " ".join(stain_sentences(pipeline.model_dump()))
    assert "(macenko) to the mean of the training sites' own; for it 8 numbers leave each training site" in words
    assert "a random laboratory of strength 0.5" in words
    fixed = load_pipeline(
        write_tiny(tmp_path, data=TINY["data"] | {"normalise": {"method": "reinhard", "reference": "fixed"}})
    )
    assert list(stain_sentences(fixed.model_dump())) == [
        "Stain: each site's patches are normalised from its own stain (reinhard) to a fixed one."
    ]
    exchange = load_pipeline(write_tiny(tmp_path, training={"augment": {"exchange": 0.3}}))
    assert "30% of a site's training patches" in next(stain_sentences(exchange.model_dump()))
    none = load_pipeline(write_tiny(tmp_path, data=TINY["data"] | {"normalise": "none"}))
    assert none.data.normalise is None
    assert not list(stain_sentences(none.model_dump()))
