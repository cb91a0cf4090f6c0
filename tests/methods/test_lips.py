"""LIPS: masks against stored numbers and a sort, which layers, when, and that the server stays dense."""

import numpy as np
import pytest
import timm
import torch

from medfl.errors import MedflError
from medfl.messages import TrainRequest
from medfl.methods.core.chain import build_chain
from medfl.methods.core.context import SiteContext
from medfl.methods.lips import GRADIENT, Lips, _half, middle_convolutions, transient_mask
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.site.site import Site
from tests.paths import VECTORS
from tests.toys import CLASSES, toy_bench, toy_federation, toy_run, toy_sites, toy_store, toy_work

VECTORS_FILE = VECTORS / "lips.npz"


@pytest.mark.skipif(not VECTORS_FILE.exists(), reason="the shared reference vectors are not at hand")
def test_stored_masks():
    stored = np.load(VECTORS_FILE)
    cases = sorted({key.split("_")[0] for key in stored})
    assert cases
    for case in cases:
        weight, gradient = (torch.from_numpy(stored[f"{case}_{k}"]) for k in ("weight", "gradient"))
        mask = transient_mask(weight, gradient, float(stored[f"{case}_density"]))
        assert mask.dtype == torch.bool
        np.testing.assert_array_equal(mask.numpy(), stored[f"{case}_mask"])


def test_mask_by_hand():
    # |g W| = 2, 6, 3, 4; half of four stays: the 6 and the 4.
    weight = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    gradient = torch.tensor([[2.0, 3.0], [-1.0, 1.0]])
    assert transient_mask(weight, gradient, 0.5).tolist() == [[False, True], [False, True]]
    # floor(.7 * 4) = 2 still; 1 keeps all; under a quarter keeps none.
    assert transient_mask(weight, gradient, 0.7).sum() == 2
    assert transient_mask(weight, gradient, 1.0).all()
    assert not transient_mask(weight, gradient, 0.2).any()


def test_ties_go_to_the_first():
    assert transient_mask(torch.ones(5), torch.ones(5), 0.4).tolist() == [True, True, False, False, False]
    weight = torch.tensor([1.0, 3.0, 1.0, 1.0])
    assert transient_mask(weight, torch.ones(4), 0.5).tolist() == [True, True, False, False]
    assert transient_mask(torch.zeros(6), torch.ones(6), 0.5).sum() == 3


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 6 / 7, 0.999])
def test_against_a_stable_sort_on_many_ties(density):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-3, 4, (8, 5, 3, 3), generator=generator).float()
    gradient = torch.randint(-3, 4, (8, 5, 3, 3), generator=generator).float()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        mask = transient_mask(
            weight.to(memory_format=memory_format), gradient.to(memory_format=memory_format), density
        )  # fmt: skip
        order = torch.argsort((weight * gradient).abs().flatten(), descending=True, stable=True)
        expected = torch.zeros(360, dtype=torch.bool)
        expected[order[: int(density * 360)]] = True
        assert torch.equal(mask.flatten(), expected)


def test_half_precision_keeps_the_ranking_of_tiny_gradients():
    gradient = torch.linspace(1e-9, 9e-8, 50)
    assert (gradient.half() == 0).any()
    half = _half(gradient)
    assert half.dtype == torch.float16
    assert torch.equal(torch.argsort(half), torch.arange(50))
    # A power of two: exactly representable values come through unrounded, up to that factor.
    assert _half(torch.tensor([3.0, -0.75, 0.0])).tolist() == [0.75, -0.1875, 0.0]
    assert _half(torch.zeros(3)).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("backbone", "total", "outside"),
    [
        ("test_resnet", 15, ["conv1.0", "conv1.3", "conv1.6"]),  # a deep stem: the whole of conv1
        ("test_byobnet", 22, ["stem.conv"]),
        ("test_nfnet", 33, ["stem.conv1", "stem.conv2", "stem.conv3", "stem.conv4"]),
        ("test_efficientnet", 17, ["conv_stem"]),
    ],
)
def test_middle_convolutions(backbone, total, outside):
    model = FlatModel(ModelSpec(backbone, CLASSES), torch.device("cpu"))
    names = [slot.name for slot in middle_convolutions(model)]
    convolutions = {n for n, m in model.net.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert len(convolutions) == total
    assert convolutions - {n.removesuffix(".weight") for n in names} == set(outside)


class Built:
    """A network with the parameters' slots, as far as `middle_convolutions` looks."""

    def __init__(self, backbone):
        with torch.device("meta"):
            self.net = timm.create_model(backbone, num_classes=3)
        names = [name for name, _ in self.net.named_parameters()]
        self.layout = type("L", (), {"slots": [type("S", (), {"name": n}) for n in names]})


def test_stem_inside_the_body_and_a_convolution_as_classifier():
    # In VGG and DPN the first convolution lies among all others: it alone is the stem. DPN classifies by convolution.
    vgg = [s.name for s in middle_convolutions(Built("vgg11"))]
    assert vgg[0] == "features.3.weight"
    assert len(vgg) == 7
    dpn = {s.name for s in middle_convolutions(Built("dpn48b"))}
    assert "classifier.weight" not in dpn
    assert "features.conv1_1.conv.weight" not in dpn
    assert any(name.startswith("features.conv2_1") for name in dpn)


def test_without_middle_convolutions_it_is_refused():
    bench = toy_bench(["lips"], backbone="test_vit", args={"img_size": 32})
    with pytest.raises(MedflError, match=r"method\.lips.*test_vit has no trainable convolution between"):
        bench.chain.check(bench.model, "sgd", 0.9, 0.0)


def test_density_over_rounds():
    # d0 = .5, T = 7: the mask after round 5 keeps .5 + .5 * 5 / 7.
    assert Lips(density=0.5).density_at(5, 7) == pytest.approx(6 / 7)
    assert Lips(density=0.5).density_at(0, 7) == 0.5
    assert Lips(density=0.5).density_at(9, 7) == 1.0


class Spy(Lips):
    """Lips that notes the starts of local training."""

    starts: dict = {}  # noqa: RUF012

    def before_training(self, local):
        super().before_training(local)
        self.starts.setdefault(local.round, []).append(local.model.weights())


def watched(rounds=4, **parameters):
    """(bench, {round: start vectors}, {round: global vector before it}) of a run in which `Spy` looks on."""
    bench = toy_bench()
    spy = Spy(**parameters)
    object.__setattr__(spy, "starts", {})
    bench.chain = type(bench.chain)((spy,))
    sites = toy_sites(bench, (16, 16), toy_work(rounds=rounds, local_steps=1))
    federation, _ = toy_federation(bench, sites, rounds=rounds, evaluate_every=99)
    before = {}
    for t in range(rounds):
        before[t] = federation.state.weights.clone()
        federation.run_round()
    return bench, spy.starts, before


def whole(slots, vector):
    """Those of the slots that hold no zero yet: a weight without a gradient stays where the first mask left it."""
    return [slot for slot in slots if bool((vector[slot.start : slot.start + slot.numel] != 0).all())]


def test_the_authors_schedule_by_hand():
    """T = 12, F = 5, d0 = .5 (METHODS.md, D1): masks after rounds 0, 5 and 10 keep .5, .708 and .917 of each layer, so
    rounds 1, 6 and 11 start with 50, 29 and 8 % of the middle weights at zero, and no other round does."""
    model = FlatModel(ModelSpec("test_byobnet", CLASSES), torch.device("cpu"))
    slots, dense = middle_convolutions(model), model.vector.clone()
    total = sum(slot.numel for slot in slots)
    state = {GRADIENT: torch.rand(total).half() + 0.5}
    zeroed = {}
    for t in range(12):
        model.vector.copy_(dense)
        local = SiteContext(model, dense, dense, steps=1, lr=0.1, seed=0, round=t, rounds=12, state=state)
        Lips(period=5, density=0.5).before_training(local)
        zeros = [int((slot.view(model.vector) == 0).sum()) for slot in slots]
        if any(zeros):
            kept = {1: 0.5, 6: 0.5 + 0.5 * 5 / 12, 11: 0.5 + 0.5 * 10 / 12}[t]
            assert zeros == [slot.numel - int(kept * slot.numel) for slot in slots]
            zeroed[t] = round(100 * sum(zeros) / total)
    assert zeroed == {1: 50, 6: 29, 11: 8}


@pytest.mark.parametrize("criterion", ["sensitivity", "magnitude", "random"])
def test_middle_layers_are_sparse_after_masking_rounds_only_and_the_server_never(criterion):
    bench, starts, before = watched(period=2, density=0.5, criterion=criterion)
    middle = {s.name for s in middle_convolutions(bench.model)}
    for t in range(4):
        for start in starts[t]:
            if t not in (1, 3):
                assert torch.equal(start, before[t])
                continue
            for slot in whole(bench.model.layout.slots, before[t]):
                rows = slice(slot.start, slot.start + slot.numel)
                if slot.name in middle:  # d = .5 after round 0, .5 + .5 * 2 / 4 after round 2
                    assert (start[rows] != 0).sum() == int({1: 0.5, 3: 0.75}[t] * slot.numel)
                    kept = start[rows] != 0
                    assert torch.equal(start[rows][kept], before[t][rows][kept])
                else:
                    assert torch.equal(start[rows], before[t][rows])
    one, two = starts[3]
    if criterion == "magnitude":
        assert torch.equal(one, two)
    else:
        assert not torch.equal(one, two)


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_is_kept_is_the_last_batchs_gradient_of_the_loss_alone(channels_last):
    bench = toy_bench(["lips", {"name": "fedprox", "mu": 50.0}], channels_last=channels_last)
    site = Site("solo", "train", toy_store("solo", 1), toy_work(local_steps=3, lr=1e-3), bench)
    gather, seen = bench.model.gather_gradient, []

    def watched_gather(out, members=slice(None)):
        gather(out, members)
        if members == slice(None):
            seen.append(out.clone())
        return out

    bench.model.gather_gradient = watched_gather
    site.handle(TrainRequest(0, bench.model.weights(), bench.model.buffers()))
    assert len(seen) == 1  # whole for the last step alone
    slots = middle_convolutions(bench.model)
    kept = site.pending[1][GRADIENT]
    assert kept.dtype == torch.float16
    for slot, have in zip(slots, torch.split(kept.float(), [s.numel for s in slots]), strict=True):
        assert torch.equal(have, _half(slot.view(seen[0]).flatten()).float())


def test_bytes_are_those_of_fedavg():
    _, plain = toy_run(rounds=2)
    _, records = toy_run([{"name": "lips", "period": 1}], rounds=2, work=toy_work(rounds=2))
    for t in range(2):
        for name, entry in records[t]["sites"].items():
            assert entry["bytes_up"] == plain[t]["sites"][name]["bytes_up"]
            assert entry["bytes_down"] == plain[t]["sites"][name]["bytes_down"]


def test_local_norms_are_a_choice():
    assert build_chain([{"name": "lips", "local_norm": True}]).local_norms
    assert not build_chain(["lips"]).local_norms
    bench = toy_bench([{"name": "lips", "local_norm": True}])
    site = Site("solo", "train", toy_store("solo", 1), toy_work(local_steps=1), bench)
    site.handle(TrainRequest(0, bench.model.weights(), bench.model.buffers()))
    assert set(site.pending[1]) == {GRADIENT, "norms", "buffers"}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"density": 0.0}, "`density` must be a number above 0 and at most 1"),
        ({"density": 1.5}, "`density`"),
        ({"period": 0}, "`period` must be a whole number of rounds"),
        ({"period": 2.0}, "`period`"),
        ({"criterion": "sensityk"}, "sensitivity, magnitude, random"),
        ({"local_norm": "yes"}, "`local_norm` is true or false"),
        ({"densty": 0.5}, '"density"'),
    ],
)
def test_refusals(parameters, said):
    with pytest.raises(MedflError) as caught:
        build_chain([{"name": "lips", **parameters}])
    assert "method.lips" in str(caught.value)
    assert said in str(caught.value)


def test_a_mask_needs_a_density_and_equal_shapes():
    with pytest.raises(ValueError, match="density"):
        transient_mask(torch.ones(2), torch.ones(2), 0.0)
    with pytest.raises(ValueError, match="differ"):
        transient_mask(torch.ones(2), torch.ones(3), 0.5)
