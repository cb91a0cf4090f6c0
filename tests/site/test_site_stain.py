"""A site takes the stain of each message once, and keeps the dyes of others between messages to train."""

import dataclasses

import numpy as np
import torch

from medfl.data.batches import AugmentSpec
from medfl.data.normalise import FIXED
from medfl.data.stain_exchange import DyeSpread
from medfl.data.synthetic.tissue import draw_copies
from medfl.messages import EvaluateRequest, TrainRequest
from medfl.site.site_stain import SiteStain
from tests.toys import toy_store, toy_work

NOTHING = (0, torch.empty(0), torch.empty(0))
DYES = tuple(DyeSpread(np.array([0.6, 0.7, 0.3, 0.1, 0.9, 0.4]), np.zeros((6, 6))).numbers)
REFERENCE = tuple(FIXED["reinhard"].numbers)


def stain(**changes):
    store = dataclasses.replace(toy_store("north", 0), images=draw_copies("colon_n", 0, 0, 32, 48))
    return SiteStain(store, toy_work(augment=AugmentSpec(exchange=0.5)) if not changes else toy_work(**changes))


def test_a_stain_is_taken_once_and_can_be_taken_off():
    site = stain()
    assert not site.take(EvaluateRequest(*NOTHING))
    assert site.store is site.rendered
    assert site.take(EvaluateRequest(*NOTHING, stain_reference=REFERENCE))
    made = site.store
    assert not np.array_equal(made.images, site.rendered.images)
    assert not site.take(EvaluateRequest(*NOTHING, stain_reference=REFERENCE))
    assert site.store is made
    assert site.take(EvaluateRequest(*NOTHING))
    assert site.store is site.rendered


def test_dyes_come_with_training_and_stay_while_it_measures():
    site = stain()
    assert site.take(TrainRequest(*NOTHING, stain_others=DYES * 2))
    assert len(site.exchange.others) == 2
    assert not site.take(EvaluateRequest(*NOTHING))
    assert len(site.exchange.others) == 2
    silent = stain(augment=AugmentSpec())
    silent.take(TrainRequest(*NOTHING, stain_others=DYES))
    assert silent.exchange is None  # its own pipeline has no share for them
