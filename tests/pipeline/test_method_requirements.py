"""Keys that a method, a baseline or a number of sites cannot serve are refused in one sentence when they are read."""

import pytest

from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.tiny import write_tiny


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["method=[median]"], "median keeps the updates of a round side by side; remove the key or choose another"),
        (["baseline=local_only"], "shows the server a sum of updates, and local_only has none"),
        (["training.workers=2"], "`training.workers` move sites between processes, which their keys do not leave"),
        (["training.sites_per_round=2"], "hides no site among 2; have 3 train in a round, or remove the key"),
    ],
)
def test_masked_sums_are_refused_where_there_is_no_sum(tmp_path, changes, says):
    path = write_tiny(tmp_path)
    with pytest.raises(MedflError, match=says):
        load_pipeline(path, ["sites.generate.count=3", "training.secure_aggregation=true", *changes])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("training.secure_aggregation=true", "sums whole numbers behind masks; remove one of them"),
        ("baseline=local_only", "and with local_only none travels; remove the key"),
        ("transport.dtype=float16", "transport.dtype"),
    ],
)
def test_rounded_updates_are_refused_where_none_travels_as_it_is(tmp_path, change, says):
    with pytest.raises(MedflError, match=says):
        load_pipeline(write_tiny(tmp_path), ["transport.dtype=bfloat16", "sites.generate.count=3", change])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["method=[moon]"], "and moon looks at the patches of a batch; remove the key or choose another"),
        (["method=[{name: dp}]"], "`method.dp`, which has noise of its own, is not made for it"),
        (["training.weighted_loss=true"], "`training.weighted_loss` tells a site's counts"),
        (["baseline=centralised"], "the baseline centralised is not made for it"),
        (["select={metric: val_mean_auroc, mode: max}"], "validation figures, which have no noise; leave it at last"),
    ],
)
def test_what_looks_at_patients_past_the_noise_is_refused(tmp_path, changes, says):
    path = write_tiny(tmp_path)
    with pytest.raises(MedflError, match=says):
        load_pipeline(path, ["training.dp_sgd={epsilon: 8}", *changes])


def test_what_acts_on_weights_alone_goes_with_it(tmp_path):
    changes = ["training.dp_sgd={epsilon: 8}", "method=[ecgr, fedprox, fedavgm]"]
    assert load_pipeline(write_tiny(tmp_path), changes).training.dp_sgd.delta == 1e-5
