"""Networks over bags: their formulas, what one instance tells, bags of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medfl.errors import MedflError
from medfl.model.backbone import ModelSpec
from medfl.model.bag_network import POOLS, BagNetwork, Bags
from medfl.model.flat_model import FlatModel
from tests.bags import DIM, bag, bags_of


def network(pool: str, **sizes) -> BagNetwork:
    torch.manual_seed(0)
    return BagNetwork(2, pool, sizes.pop("dim", DIM), **{"hidden": 5, "attention": 4} | sizes).eval()


def test_gated_attention_is_that_of_the_paper():
    net, x = network("abmil"), bag(1, 4)
    w = {name: value.numpy() for name, value in net.state_dict().items()}
    h = np.maximum(x @ w["embed.weight"].T + w["embed.bias"], 0)
    content = np.tanh(h @ w["pool.content.weight"].T + w["pool.content.bias"])
    gate = 1 / (1 + np.exp(-(h @ w["pool.gate.weight"].T + w["pool.gate.bias"])))
    score = (content * gate) @ w["pool.score.weight"][0]
    a = np.exp(score) / np.exp(score).sum()
    logits = (a @ h) @ w["fc.weight"].T + w["fc.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(net(bags_of([x]))[0], logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(net.attention(bags_of([x]))[0], a, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_a_bag_does_not_depend_on_its_company_nor_on_the_order_of_its_instances(pool):
    net, parts = network(pool, norm=True), [bag(1, 4), bag(2, 1), bag(3, 7)]
    with torch.no_grad():
        together = net(bags_of(parts))
        alone = torch.cat([net(bags_of([part[::-1].copy()])) for part in parts])
        weights = net.attention(bags_of(parts))
    torch.testing.assert_close(together, alone)
    assert [len(own) for own in weights] == [4, 1, 7]
    assert all(float(own.sum()) == pytest.approx(1) and float(own.min()) >= 0 for own in weights)
    assert float(weights[1]) == 1


def draw(seed: int, count: int):
    """Bags of noise; in every second one, a single instance stands out."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for row in range(count):
        size = int(torch.randint(40, 80, (1,), generator=generator))
        part = torch.randn(size, 32, generator=generator)
        if row % 2:
            part[int(torch.randint(size, (1,), generator=generator)), 0] += 8
        parts.append(part)
    return parts, torch.arange(count) % 2


def trained_auroc(pool: str) -> float:
    net = network(pool, dim=32, hidden=32, attention=16)
    parts, labels = draw(1, 80)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.005, weight_decay=0.01)
    generator = torch.Generator().manual_seed(3)
    for _ in range(12):
        for rows in torch.randperm(80, generator=generator).split(10):
            loss = torch.nn.functional.cross_entropy(net(bags_of([parts[row] for row in rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    others, truth = draw(2, 120)
    with torch.no_grad():
        return float(roc_auc_score(truth, net(bags_of(others)).softmax(1)[:, 1]))


def test_attention_learns_what_one_instance_tells_and_the_mean_does_not():
    assert trained_auroc("abmil") >= 0.95
    assert trained_auroc("mean") < 0.75


def peak(reset: bool = False) -> int:
    """Most memory that this process had since it was reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def test_a_bag_of_fifty_thousand_trains_in_bounded_memory():
    net = network("abmil", dim=64, hidden=32, attention=16).train()
    bags = Bags(torch.randn(50_000, 64, generator=torch.Generator().manual_seed(0)), (50_000,))
    try:
        before = peak(reset=True)
    except OSError:
        pytest.skip("this system does not tell a process its peak")
    net(bags).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())
    assert peak() - before < 6 * bags.features.nbytes


def test_it_is_a_flat_model_like_any_other():
    spec = ModelSpec("mil_abmil", ("a", "b"), {"dim": DIM, "hidden": 5, "attention": 4})
    model = FlatModel(spec, torch.device("cpu"), seed=1)
    parts = bags_of([bag(1), bag(2, 5)])
    assert model.bag_dim == DIM
    assert model.gives_features
    torch.testing.assert_close(model.head(model.features(parts)), model.net(parts))
    torch.testing.assert_close(
        model.features_at(model.vector, model.buffer_vector, parts), model.features(parts).detach()
    )
    assert list(model.layout.stages()) == ["embed", "pool", "fc"]


@pytest.mark.parametrize(("name", "args"), [("mil_median", {}), ("mil_abmil", {"heads": 2})])
def test_what_cannot_be_built_is_a_sentence(name, args):
    with pytest.raises(MedflError, match=f"{name} cannot be built.*attention, norm"):
        FlatModel(ModelSpec(name, ("a", "b"), {"dim": DIM, **args}), torch.device("cpu"))
