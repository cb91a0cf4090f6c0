"""What a site tells of a split of few source groups: nothing, and that it tells nothing."""

import dataclasses

import pytest

from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.transport import InProcess
from medfl.messages import EvaluateRequest, HistogramRequest, MeasureRequest, Reply, ScalingRequest, TemperatureRequest
from tests.toys import CLASSES, toy_bench, toy_sites, toy_work


@pytest.mark.parametrize("floor", [5, 7])
def test_a_split_below_the_floor_says_so_and_nothing_else(floor):
    """Six source groups in each of validation and test."""
    bench = toy_bench()
    site = next(iter(toy_sites(bench, work=dataclasses.replace(toy_work(), min_count=floor)).values()))
    model = (0, bench.model.weights(), bench.model.buffers())
    checked = CheckedTransport(InProcess({site.name: site}), CLASSES, site.training.bins)

    def asked(request) -> Reply:
        (answer,) = checked.call([site.name], lambda name: request)
        assert isinstance(answer, Reply), answer.reason
        return answer

    enough = floor <= 6
    round_ = asked(EvaluateRequest(*model, ("val",))).metrics["val"]
    measure = MeasureRequest(*model, ("test",), resamples=9, thresholds={"a": 0.5}, members=24)
    final = asked(measure).metrics["test"]
    for figures, n in ((round_, 12), (final, 12)):
        assert figures["n"] == (n if enough else 0)
        assert (figures["nll"] is not None) == enough
        assert figures["withheld"]["all"] != enough
        assert figures["withheld"]["min_count"] == floor
    assert ("membership" in final) == enough
    sums = asked(TemperatureRequest(*model, ("val",), temperatures=(1.0,))).sums["val"]["temperatures"]
    assert sums["n"] == (12 if enough else 0)
    told = asked(HistogramRequest(*model, ("val",))).sums["val"]["histograms"]
    assert sum(map(sum, told["positive"])) == 0 or enough


def test_a_class_of_few_patients_has_no_part_in_vector_scaling():
    """Its constant's derivative would tell how many patches it has."""
    bench = toy_bench()
    site = next(iter(toy_sites(bench, work=dataclasses.replace(toy_work(), min_count=3)).values()))
    store, rows = site.store, site.store.splits["val"]
    labels = store.labels.copy()
    labels[rows] = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2]  # six groups of two: class 2 has one patient, class 0 two
    site.store = dataclasses.replace(store, labels=labels)
    model = (0, bench.model.weights(), bench.model.buffers())
    sums = site.handle(ScalingRequest(*model, ("val",), points=(1.0,) * 3 + (0.0,) * 3)).sums["val"]["scaling"]
    assert (sums["n"], sums["groups"]) == (7, 4)
    temperature = site.handle(TemperatureRequest(*model, ("val",), temperatures=(1.0,))).sums["val"]["temperatures"]
    assert temperature["n"] == 12
