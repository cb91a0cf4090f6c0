"""DP-SGD of patients: bound, noise and sampling by hand, and plain training where there is no noise and no bound."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from medfl.data.batches import AugmentSpec
from medfl.methods.core.context import SiteContext
from medfl.site.patient_gradients import PatientGradients, PatientPrivacy
from tests.toys import toy_bench, toy_federation, toy_sites, toy_work

NETWORK = "test_efficientnet_gn"
PLAIN = AugmentSpec(flips=False, rotate90=False)


def round_of(privacy, groups=(0, 0, 0, 1, 2, 2), chunk=2):
    """(gradients, model, images, labels): one step on six patches of three patients."""
    bench, draw = toy_bench(backbone=NETWORK), torch.Generator().manual_seed(1)
    model, images = bench.model, torch.randn(6, 3, 32, 32, generator=draw)
    model.train_mode()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    local = SiteContext(model, model.vector.clone(), model.vector.clone(), steps=1, lr=0.1, seed=5)
    return PatientGradients(local, privacy, np.arange(6), np.array(groups), chunk), bench, images, labels


def gradient(bench, images, labels):
    for parameter in bench.model.parameters:
        parameter.grad = None
    cross_entropy(bench.logits(images), labels).backward()
    return bench.model.gather_gradient(torch.zeros_like(bench.model.vector))


def stepped(gradients, bench, images, labels):
    """The gradient that the optimiser sees, and the loss."""

    def draw(order, seed):
        yield images[order[0]], labels[order[0]]

    def backward(patches, own, factor):
        loss = cross_entropy(bench.logits(patches), own)
        (loss * factor).backward()
        return loss

    ((patches, own),) = gradients.batches(draw)
    loss = gradients.backward(patches, own, backward)
    return bench.model.gather_gradient(torch.zeros_like(bench.model.vector)), loss


def test_each_patients_mean_gradient_is_bounded_by_hand():
    """With all three drawn: of each the mean over its patches, whatever their number, shortened to the bound."""
    own = [slice(0, 3), slice(3, 4), slice(4, 6)]
    gradients, bench, images, labels = round_of(PatientPrivacy(math.inf, 0.0, 1.0))
    by_patient = [gradient(bench, images[part], labels[part]) for part in own]
    lengths = [float(torch.linalg.vector_norm(one)) for one in by_patient]
    clip = sorted(lengths)[1]  # one is left as it is, one is at the bound, one is shortened
    gradients, bench, images, labels = round_of(PatientPrivacy(clip, 0.0, 1.0))
    found, loss = stepped(gradients, bench, images, labels)
    expected = sum(one * min(1.0, clip / length) for one, length in zip(by_patient, lengths, strict=True)) / 3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    means = [cross_entropy(bench.logits(images[part]), labels[part]) for part in own]
    assert float(loss) == pytest.approx(float(sum(means)) / 3, rel=1e-5)


def test_the_noise_is_that_of_the_seed_times_the_bound_over_the_expected_patients():
    privacy = PatientPrivacy(0.01, 3.0, 1.0, seeded=True)
    quiet = PatientPrivacy(0.01, 0.0, 1.0, seeded=True)
    (found, _), (still, _) = (stepped(*round_of(each)) for each in (privacy, quiet))
    noise = (found - still)[found != 0] * 3 / 0.03
    assert abs(float(noise.std()) - 1) < 0.02
    assert abs(float(noise.mean())) < 0.02
    one, two = (stepped(*round_of(PatientPrivacy(0.01, 3.0, 1.0)))[0] for _ in range(2))
    assert not torch.equal(one, two)  # without a seed it is nobody's to repeat


def test_a_step_that_draws_nobody_is_noise_alone():
    gradients, bench, images, labels = round_of(PatientPrivacy(1.0, 0.0, 1e-12))
    found, loss = stepped(gradients, bench, images, labels)
    assert not found.any()
    assert float(loss) == 0


def test_patients_are_drawn_each_by_its_own_lot():
    gradients, _, images, labels = round_of(PatientPrivacy(1.0, 0.0, 0.3, seeded=True), groups=range(6))
    gradients.local.steps = 2000
    sizes = [len(own) for _, own in gradients.batches(lambda order, seed: iter([(images[order[0]], labels[order[0]])]))]
    assert abs(np.mean(sizes) - 1.8) < 0.1
    assert abs(np.var(sizes) - 6 * 0.3 * 0.7) < 0.15
    assert min(sizes) == 0


def test_without_noise_and_bound_it_is_plain_training():
    """All patients in every step, each of two patches: the mean over patients is that over patches."""
    after = []
    for patients in (None, PatientPrivacy(1e9, 0.0, 1.0)):
        bench = toy_bench(backbone=NETWORK)
        work = toy_work(batch_size=16, local_steps=2, augment=PLAIN, patients=patients)
        federation, _ = toy_federation(bench, toy_sites(bench, (16,), work), rounds=1, evaluate_every=5)
        federation.run_round()
        after.append(federation.state.weights)
    torch.testing.assert_close(after[0], after[1], rtol=1e-4, atol=5e-6)  # float32, summed in another order
    assert not torch.equal(after[0], toy_bench(backbone=NETWORK).model.weights())
