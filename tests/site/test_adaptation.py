"""A site adapts the model by unlabelled patches of half its source groups and judges it on the others."""

import dataclasses

import numpy as np
import pytest
import torch

from medfl.data.normalise import normalise, stain_statistics
from medfl.engines.remote.codec import Bounds, pack, unpack_answer, unpack_request
from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.transport import InProcess
from medfl.messages import AdaptRequest, Reply
from medfl.metrics.class_prior import estimated_mix, mix_shift
from medfl.metrics.measure import measure
from medfl.metrics.temperature import temperature_sums
from medfl.model.batchnorm import batchnorm_statistics_of
from medfl.site.adaptation import halves, mix_is_believable
from medfl.site.site import Site
from tests.toys import CLASSES, toy_bench, toy_run, toy_store, toy_work

MIX = (0.5, 0.3, 0.2)
MANY = {"train": 0, "val": 0, "test": 64}


@pytest.fixture(scope="module")
def trained():
    """(network, weights, buffers) after some rounds on patches of all classes."""
    state, _ = toy_run(rounds=3, sizes=(48,), work=toy_work(lr=0.03, local_epochs=2), backbone="test_byobnet")
    bench = toy_bench(backbone="test_byobnet")
    return bench, state.weights, state.buffers


def site_of(bench, store=None, mix=MIX, **work):
    settings = dataclasses.replace(toy_work(), class_mix=mix, **work)
    return Site("new", "held_out", store or toy_store("new", 7, **MANY), settings, bench)


def asked(site, weights, buffers, *remedies, **changes) -> Reply:
    """The checked answer, which has gone over the line and back."""
    settings = {"remedies": remedies, "training_mix": (0.4, 0.3, 0.3), "temperature": 1.5} | changes
    request = AdaptRequest(0, weights, buffers, ("test",), **settings)
    bounds = Bounds.of(site.shared.model)
    travelled = unpack_request(pack(request, bounds), bounds)
    checked = CheckedTransport(InProcess({site.name: site}), CLASSES, site.training.bins)
    (answer,) = checked.call([site.name], lambda name: travelled)
    assert isinstance(answer, Reply), answer.reason
    assert unpack_answer(pack(answer, bounds), site.name, 0, bounds).metrics == answer.metrics
    return answer


def rows_of(site):
    from medfl.seeds import seed_for

    store = site.store
    return halves(store.groups, store.splits["test"], seed_for(site.training.seed, "adapt", site.name))


def logits(site, rows, images=None):
    """Calibrated logits of the network as it is."""
    given = site.images.normalised(site.store.images[rows] if images is None else images)
    with torch.inference_mode():
        return site.shared.model.net(given).double().numpy() / 1.5


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def assert_judged(site, figures, scores):
    """The figures are those of these calibrated logits of the judged half."""
    _, judged = rows_of(site)
    store = site.store
    by_hand = measure(softmax(scores), store.labels[judged], store.groups[judged], CLASSES)
    for key in ("n", "n_groups", "auroc", "accuracy"):
        assert figures[key] == by_hand[key]
    assert figures["nll"] == pytest.approx(by_hand["nll"], abs=1e-5)
    assert figures["ece"] == pytest.approx(by_hand["ece"], abs=1e-5)


def test_no_source_group_is_on_both_sides_and_the_seed_draws_them():
    groups = np.repeat(np.arange(11), 3)
    rows = np.arange(33)[::2]
    adapting, judged = halves(groups, rows, 5)
    assert not set(groups[adapting]) & set(groups[judged])
    assert sorted([*adapting, *judged]) == sorted(rows)
    assert len(set(groups[judged])) == 6
    assert np.array_equal(adapting, halves(groups, rows, 5)[0])
    assert not np.array_equal(sorted(adapting), sorted(halves(groups, rows, 6)[0]))


def test_each_step_is_what_it_is_by_hand(trained):
    bench, weights, buffers = trained
    site = site_of(bench, mix=None)  # a mix near the plain one is believed, whatever comes behind it
    stated = site_of(bench)
    training, reference = (0.4, 0.3, 0.3), (0.6, 0.6, 0.6, 0.3, 0.3, 0.3)
    remedies = ("normalise", "class_mix", "normalise+em")
    replies = asked(stated, weights, buffers, *remedies, reference=reference).metrics
    adapting, judged = rows_of(site)
    bench.model.load(weights, buffers)
    bench.net.eval()
    plain = logits(site, judged)
    assert_judged(site, replies["none"], plain)
    assert_judged(site, replies["class_mix"], plain + mix_shift(MIX, training))
    own, target = stain_statistics(site.store.images[adapting]), type(stain_statistics(site.store.images))
    target = target(reference[:3], reference[3:])
    seen = [normalise(site.store.images[rows], own, target) for rows in (adapting, judged)]
    normalised = [logits(site, rows, images) for rows, images in zip((adapting, judged), seen, strict=True)]
    assert_judged(site, replies["normalise"], normalised[1])
    mix = estimated_mix(softmax(normalised[0]), training)
    assert_judged(site, replies["normalise+em"], normalised[1] + mix_shift(mix, training))
    assert replies["normalise+em"]["adaptation"] == {
        "steps": ["normalise", "em"],
        "left_out": {},
        "patches": 32,
        "groups": 16,
    }


def test_statistics_are_re_estimated_on_the_adapting_half_alone(trained):
    bench, weights, buffers = trained
    site = site_of(bench, store=shifted(toy_store("new", 7, **MANY)), mix=None)
    adapting, judged = rows_of(site)
    bench.model.load(weights, buffers)
    bench.net.eval()
    before = {name: value.clone() for name, value in bench.model.net.state_dict().items()}
    images = site.images.normalised(site.store.images[adapting[:20]])
    with batchnorm_statistics_of(bench.model.moving_batchnorm(), [images], bench.model.net):
        scores, predicted = logits(site, judged), logits(site, adapting[:20]).argmax(1)
    mix = tuple(np.bincount(predicted, minlength=3) / 20)  # what a registry would have to say
    believed = site_of(bench, store=site.store, mix=mix)
    reply = asked(believed, weights, buffers, "batchnorm", patches=20).metrics["batchnorm"]
    assert reply["adaptation"]["steps"] == ["batchnorm"]
    assert_judged(site, reply, scores)
    after = bench.model.net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def shifted(store):
    """The same patches, much darker: another laboratory."""
    return dataclasses.replace(store, images=(store.images // 3).astype(np.uint8))


def test_no_label_of_the_adapting_half_is_read(trained):
    bench, weights, buffers = trained
    site, remedies = site_of(bench), ("batchnorm", "normalise+em", "class_mix")
    numbers = (0.6, 0.6, 0.6, 0.3, 0.3, 0.3)
    replies = asked(site, weights, buffers, *remedies, reference=numbers).metrics
    labels = site.store.labels.copy()
    labels[rows_of(site)[0]] = 0
    blind = site_of(bench, store=dataclasses.replace(site.store, labels=labels))
    assert asked(blind, weights, buffers, *remedies, reference=numbers).metrics == replies


@pytest.mark.parametrize("present", [(0,), (1,), (0, 2)])
def test_a_site_of_one_or_two_classes_falls_back(trained, present):
    """Re-estimated on such a site, the network still predicts all classes, which the registry knows better."""
    bench, weights, buffers = trained
    whole = toy_store("new", 9, train=0, val=0, test=160)
    rows = np.flatnonzero(np.isin(whole.labels, present))[:48]
    few = dataclasses.replace(
        whole,
        images=whole.images[rows],
        labels=whole.labels[rows],
        groups=np.arange(len(rows)) // 2,
        splits={"test": np.arange(len(rows))},
    )
    mix = tuple(float(np.mean(few.labels == c)) for c in range(3))
    replies = asked(
        site_of(bench, few, mix), weights, buffers, "batchnorm", "batchnorm+em", "batchnorm+class_mix"
    ).metrics
    assert replies["batchnorm"]["adaptation"]["left_out"] == {"batchnorm": "class_spread"}
    assert replies["batchnorm+em"]["adaptation"]["left_out"] == {"batchnorm": "class_spread", "em": "alone"}
    assert replies["batchnorm+class_mix"]["adaptation"]["steps"] == ["class_mix"]
    plain = {key: value for key, value in replies["none"].items() if key != "adaptation"}
    assert plain.items() <= replies["batchnorm"].items()
    assert plain.items() <= replies["batchnorm+em"].items()


def test_a_mix_is_believed_where_it_is_near_the_registrys_and_nearer_than_before():
    even, one, stated = np.full(4, 0.25), np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.2, 0.2, 0.3, 0.3])
    assert mix_is_believable(even, one, stated)
    assert not mix_is_believable(even, one, one)
    assert not mix_is_believable(one, even, stated)
    assert not mix_is_believable(even, stated, stated)
    assert mix_is_believable(even, stated, None)
    assert not mix_is_believable(even, one, None)


@pytest.mark.parametrize(
    ("store", "floor", "word"),
    [({"test": 16}, 1, "few_groups"), ({"test": 24}, 7, "few_groups"), ({"test": 24}, 1, "few_patches")],
)
def test_where_there_is_too_little_nothing_is_done_and_nothing_told(trained, store, floor, word):
    bench, weights, buffers = trained
    site = site_of(bench, toy_store("new", 7, train=0, val=0, **store), min_count=floor)
    replies = asked(site, weights, buffers, "batchnorm+class_mix").metrics
    for figures in replies.values():
        assert (figures["n"], figures["auroc"], figures["adaptation"]["patches"]) == (0, None, 0)
    assert replies["batchnorm+class_mix"]["adaptation"]["left_out"] == dict.fromkeys(("batchnorm", "class_mix"), word)


def test_a_step_without_its_number_is_left_out_by_name(trained):
    bench, weights, buffers = trained
    site = site_of(bench, mix=None)
    replies = asked(site, weights, buffers, "class_mix", "normalise").metrics
    assert replies["class_mix"]["adaptation"]["left_out"] == {"class_mix": "no_class_mix"}
    assert replies["normalise"]["adaptation"]["left_out"] == {"normalise": "no_reference"}
    white = dataclasses.replace(site.store, images=np.full_like(site.store.images, 255))
    blank = site_of(bench, white, mix=None)
    reply = asked(blank, weights, buffers, "normalise", reference=(0.6, 0.6, 0.6, 0.3, 0.3, 0.3)).metrics["normalise"]
    assert reply["adaptation"]["left_out"] == {"normalise": "no_tissue"}


def test_a_temperature_of_the_adapted_model_is_fitted_by_sums_of_the_judged_half(trained):
    bench, weights, buffers = trained
    site, numbers, asked_for = site_of(bench, mix=None), (0.6, 0.6, 0.6, 0.3, 0.3, 0.3), (0.5, 1.0, 2.0)
    changes = {"reference": numbers, "temperatures": asked_for, "temperature": 1.0}
    sums = asked(site, weights, buffers, "normalise", **changes).sums["test"]["temperatures"]
    adapting, judged = rows_of(site)
    own = stain_statistics(site.store.images[adapting])
    bench.model.load(weights, buffers)
    seen = normalise(site.store.images[judged], own, type(own)(numbers[:3], numbers[3:]))
    labels, groups = site.store.labels[judged], site.store.groups[judged]
    by_hand = temperature_sums(logits(site, judged, seen) * 1.5, labels, asked_for, groups)
    assert (sums["n"], sums["groups"]) == (32, 16)
    np.testing.assert_allclose(sums["nll"], by_hand.nll, rtol=1e-5)
    nothing = asked(site, weights, buffers, "normalise", **changes | {"reference": ()}).sums["test"]["temperatures"]
    assert nothing["n"] == 0


def test_counts_of_one_half_do_not_give_away_those_of_the_other(trained):
    bench, weights, buffers = trained
    told = asked(site_of(bench, min_count=5), weights, buffers, "class_mix", thresholds={"a": 0.5}).metrics["class_mix"]
    assert told["n"] == 32
    assert told["auroc"] is not None
    assert {count for row in told["confusion"] for count in row} == {None}
    assert all(entry == {"patches": None, "groups": None} for entry in told["support"].values())
    assert all(point["positives"] is None for point in told["operating"].values())


def test_another_laboratory_changes_what_is_seen_and_not_who_is_judged(trained):
    bench, weights, buffers = trained
    site = site_of(bench)
    home, abroad = (asked(site, weights, buffers, laboratory=s).metrics["none"] for s in (0.0, 1.0))
    assert home["n"] == abroad["n"]
    assert home["nll"] != abroad["nll"]
