"""What a site tells of a split of few source groups: nothing, and that it tells nothing."""

import dataclasses

import pytest

from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.transport import InProcess
from medfl.messages import EvaluateRequest, HistogramRequest, MeasureRequest, Reply, TemperatureRequest
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
