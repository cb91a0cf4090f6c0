"""The class mix that a model takes for granted, by what its training did with classes."""

import pytest

from medfl.methods.core.chain import build_chain
from medfl.pipeline.adaptation_needs import stain_statistics_of, training_mix
from medfl.pipeline.load_pipeline import load_pipeline
from tests.tiny import CLASSES, tiny

ROWS = [
    {"role": role, "split": split, "class": name, "patches": patches}
    for role, split, name, patches in [
        ("train", "train", CLASSES[0], "30"),
        ("train", "train", CLASSES[0], 10),
        ("train", "train", CLASSES[1], "60"),
        ("train", "train", CLASSES[2], ""),  # withheld
        ("train", "val", CLASSES[2], "99"),
        ("held_out", "test", CLASSES[2], "99"),
    ]
]


def mix(rows=ROWS, method=(), **training):
    return training_mix(load_pipeline(tiny(training=training)), build_chain(method), rows)


def test_it_is_that_of_all_training_patches():
    assert mix() == pytest.approx((0.4, 0.6, 0.0))
    assert mix(rows=[]) == pytest.approx((1 / 3,) * 3)


def test_it_is_what_weights_and_methods_make_of_it():
    assert mix(weighted_loss=True) == pytest.approx((1 / 3,) * 3)
    assert mix(class_weights={CLASSES[0]: 3.0}) == pytest.approx((2 / 3, 1 / 3, 0.0))
    assert mix(method=["logit_adjustment"]) == pytest.approx((1 / 3,) * 3)


@pytest.mark.parametrize(("remedy", "method"), [("auto", "reinhard"), ("normalise", "reinhard"), ("batchnorm", "")])
def test_training_sites_tell_their_stain_only_where_it_is_asked_for(remedy, method):
    assert stain_statistics_of(load_pipeline(tiny(adapt={"remedy": remedy}))) == method
    assert stain_statistics_of(load_pipeline(tiny())) == ""
