"""A site that sends a figure which cannot be is named, in every engine, and the run goes on without that reply."""

import dataclasses
from concurrent.futures import Future

import pytest
import torch

from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.transport import InProcess
from medfl.messages import (
    EvaluateRequest,
    Failure,
    HistogramRequest,
    MeasureRequest,
    Reply,
    ScalingRequest,
    TemperatureRequest,
)
from tests.toys import CLASSES, toy_bench, toy_federation, toy_sites


class Liar:
    """A site that spoils what it says."""

    def __init__(self, site, spoil):
        self.site, self.spoil, self.role, self.training = site, spoil, site.role, site.training

    def handle(self, request):
        return self.spoil(self.site.handle(request))


def auroc(value):
    return lambda reply: dataclasses.replace(
        reply, metrics={split: {**figures, "auroc": value} for split, figures in reply.metrics.items()}
    )


def test_one_figure_poisons_no_run():
    bench = toy_bench()
    sites = toy_sites(bench)
    federation, records = toy_federation(bench, sites, rounds=1, quorum=0.5)
    liars = InProcess(sites | {"site-1": Liar(sites["site-1"], auroc("high"))})
    federation.transport = CheckedTransport(liars, CLASSES, 15)
    federation.run()
    assert [r["counted"] for r in records] == [True, False]
    for record in records:
        (failure,) = record["failures"]
        assert failure["site"] == "site-1"
        assert "`metrics.val.auroc` is" in failure["reason"]
        assert "site-1" not in record["sites"]


def test_every_kind_of_answer_of_an_honest_site_passes():
    bench = toy_bench(["pflalign"])
    site = next(iter(toy_sites(bench).values()))
    model = (0, bench.model.weights(), bench.model.buffers())
    checked = CheckedTransport(InProcess({site.name: site}), CLASSES, site.training.bins, personal=True)
    for request in (
        EvaluateRequest(*model, ("val", "test")),
        TemperatureRequest(*model, ("val",), temperatures=(0.5, 1.0)),
        ScalingRequest(*model, ("val",), points=(1.0, 1.0, 1.0, 0.0, 0.0, 0.0) * 2, laboratories=2, stain_strength=0.5),
        HistogramRequest(*model, ("val",), malignant=("a", "b")),
        MeasureRequest(*model, ("test",), resamples=9, thresholds={"a": 0.5}, malignant=("a", "b"), members=5),
    ):
        (answer,) = checked.call([site.name], lambda name, request=request: request)
        assert isinstance(answer, Reply), answer.reason


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply("a", 0, metrics={"test": {}}), "`metrics` has a part test that nobody asked for"),
        (Reply("a", 0, curves={"val": {}}), "`curves` has a part val"),
        (Reply("a", 0, sums={"val": {}}), "`sums` has a part val"),
        (Reply("a", 0), "`metrics` lacks val"),
        (Reply("a", 0, metrics={"val": {}, "val_\x1b[2J": {}}), r"a part val_\?\[2J that"),
        (Reply("a", 0, metrics={"val": []}), "`metrics.val` is no mapping"),
    ],
)
def test_what_was_not_asked_for_is_refused(reply, says):
    class Line:
        def call(self, sites, request):
            request("a")
            yield reply

        def post(self, site, request):
            future = Future()
            future.set_result(reply)
            return future

    request = EvaluateRequest(0, torch.zeros(1), torch.zeros(1), ("val",))
    checked = CheckedTransport(Line(), CLASSES, 15, personal=True)
    (answer,) = checked.call(["a"], lambda name: request)
    assert isinstance(answer, Failure)
    assert answer == checked.post("a", request).result()
    with pytest.raises(ValueError, match=says):
        checked._look_at(request, reply)


def test_seconds_are_of_known_phases():
    checked = CheckedTransport(InProcess({}), CLASSES, 15)
    request = EvaluateRequest(0, torch.zeros(1), torch.zeros(1))
    assert checked.checked(request, Reply("a", 0, seconds={"train": 1.0})) == Reply("a", 0, seconds={"train": 1.0})
    for odd in ({"aggregate": 1.0}, {"train": 1e300}, {"train": -1}):
        assert isinstance(checked.checked(request, Reply("a", 0, seconds=odd)), Failure)
