"""What the training sites tell of their stains before the first round, and what comes of it."""

import dataclasses

import numpy as np
import pytest
import torch

from medfl.data.batches import AugmentSpec
from medfl.data.normalise import mean_statistics, stain_statistics
from medfl.data.stain_exchange import DyeSpread, dye_spread, patch_dyes
from medfl.data.synthetic.tissue import draw_copies
from medfl.errors import RunFailed
from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.stain_agreement import StainAgreement, agree
from medfl.federation.transport import InProcess
from medfl.messages import EvaluateRequest, Failure, StainRequest
from medfl.site.site import Site
from tests.toys import CLASSES, toy_bench, toy_federation, toy_store, toy_work

NAMES = ["site-0", "site-1", "site-2"]


@pytest.fixture(scope="module")
def bench():
    return toy_bench()


@pytest.fixture(scope="module")
def tissue():
    return {name: draw_copies("colon_n", number, 0, 32, 48) for number, name in enumerate(NAMES)}


@pytest.fixture
def sites(bench, tissue):
    made = {}
    for number, name in enumerate(NAMES):
        store = dataclasses.replace(toy_store(name, number), images=tissue[name])
        work = toy_work(stain_statistics="reinhard", augment=AugmentSpec(exchange=0.5))
        made[name] = Site(name, "train", store, work, bench)
    return made


def asked(sites, method="reinhard", dyes=False, quorum=0.5):
    said = []
    return agree(CheckedTransport(InProcess(sites), CLASSES, 15), NAMES, method, dyes, quorum, said.append), said


def test_the_reference_is_the_mean_of_what_training_patches_say(sites):
    made, said = asked(sites)
    own = [stain_statistics(site.store.images[site.store.splits["train"]]) for site in sites.values()]
    assert made == StainAgreement(tuple(mean_statistics(own).numbers))
    assert said == []
    assert StainAgreement.of_facts(made.to_facts()) == made


def test_each_site_is_sent_the_dyes_of_the_others_only(sites):
    made, _ = asked(sites, method="", dyes=True)
    assert made.reference == ()
    own = {
        name: dye_spread(patch_dyes(site.store.images[site.store.splits["train"]])[0]).numbers
        for name, site in sites.items()
    }
    assert {name: list(dyes) for name, dyes in made.dyes.items()} == own
    assert list(made.others("site-1")) == own["site-0"] + own["site-2"]
    assert len(made.others("held-out")) == 81


def test_in_rounds_patches_are_in_the_one_stain_and_dyes_go_with_training_only(bench, sites):
    seen = []

    class Noted:
        def __init__(self, site):
            self.site = site

        def handle(self, request):
            seen.append((self.site.name, request))
            return self.site.handle(request)

    federation, _ = toy_federation(bench, sites, rounds=1)
    reference = asked(sites)[0].reference
    dyes = {name: tuple(DyeSpread(np.array([0.6, 0.7, 0.3, 0.1, 0.9, 0.4]), np.eye(6) * 0).numbers) for name in NAMES}
    federation.state.stains = StainAgreement(reference, dyes)
    federation.transport = InProcess({name: Noted(site) for name, site in sites.items()})
    rendered = {name: site.store for name, site in sites.items()}
    federation.run()
    assert {request.stain_reference for _, request in seen} == {reference}
    trains = [request for _, request in seen if not isinstance(request, EvaluateRequest)]
    assert [len(request.stain_others) for request in trains] == [54] * 3
    for name, site in sites.items():
        assert site.store is not rendered[name]
        assert site.images.store is site.store
        assert len(site.images.exchange.others) == 2


def test_a_site_of_few_patients_tells_nothing_and_is_normalised_all_the_same(bench, sites):
    few = sites["site-1"]
    few.stain.training = dataclasses.replace(few.training, min_count=100)
    made, said = asked(sites, dyes=True)
    own = [stain_statistics(sites[name].store.images[:24]) for name in ("site-0", "site-2")]
    assert made.reference == tuple(mean_statistics(own).numbers)
    assert set(made.dyes) == {"site-0", "site-2"}
    assert len(made.others("site-1")) == 54
    assert [sentence.split(":")[1] for sentence in said] == [
        " site-1 tells no statistics",
        " site-1 tells no dyes",
    ]
    few.handle(EvaluateRequest(0, bench.model.weights(), bench.model.buffers(), (), stain_reference=made.reference))
    assert few.store is not few.stain.rendered


def test_a_site_tells_only_what_its_own_pipeline_says(bench, sites):
    silent = Site("site-1", "train", sites["site-1"].store, toy_work(), bench)
    for wanted in ({"method": "reinhard"}, {"dyes": True}):
        question = StainRequest(0, torch.empty(0), torch.empty(0), ("train",), **wanted)
        (answer,) = InProcess({"site-1": silent}).call(["site-1"], lambda _, q=question: q)
        assert isinstance(answer, Failure)
        assert "this site's pipeline has none told" in answer.reason
    made, said = asked(sites | {"site-1": silent})
    assert len(said) == 1
    assert made.reference
    with pytest.raises(RunFailed, match=r"2 of 3 training sites told their stain, fewer than `training\.quorum`"):
        asked(sites | {"site-1": silent}, quorum=1.0)


def test_without_anything_to_go_by_the_run_ends_in_a_sentence(sites):
    for site in sites.values():
        white = dataclasses.replace(site.store, images=np.full_like(site.store.images, 255))
        site.stain.rendered = white
    with pytest.raises(RunFailed, match=r"no training site could tell its stain.*reference: fixed"):
        asked(sites)
    with pytest.raises(RunFailed, match="0 of 3 training sites told their dyes"):
        asked(sites, method="", dyes=True)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("statistics", [0.5] * 5),
        ("statistics", [0.5, 0.5, 0.5, 0.3, 0.3, 1e9]),
        ("statistics", [float("nan")] * 6),
        ("statistics", [0.5, 0.5, 0.5, 0.3, 0.3, 0.0]),
        ("dyes", [0.5] * 27),
        ("dyes", [0.5] * 26),
        ("more", [0.5]),
    ],
)
def test_numbers_that_cannot_be_are_a_failure_of_their_site(sites, part, value):
    honest = sites["site-1"]

    class Liar:
        def handle(self, request):
            reply = honest.handle(request)
            return dataclasses.replace(reply, sums={"train": {**reply.sums["train"], part: value}})

    made, said = asked(sites | {"site-1": Liar()}, dyes=True)
    assert set(made.dyes) == {"site-0", "site-2"}
    assert said[0].startswith("Stain: site-1: its answer was refused")
