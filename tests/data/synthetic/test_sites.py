"""Simulated institutions drawn from a seed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medfl import config
from medfl.data.synthetic.sites import generate_sites
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from tests.datafiles import (
    CLASSES,
    pipeline,
    site,
)


def test_generated_sites_are_reproducible_and_do_not_depend_on_their_number() -> None:
    few = generate_sites(config.Generate(count=3, held_out=1, patches=30), CLASSES, seed=7)
    many = generate_sites(config.Generate(count=120, held_out=2, patches=30), CLASSES, seed=7)
    assert few[0] == many[0][:3]
    assert few[1] == many[1][:1]
    assert [s.name for s in few[0] + few[1]] == ["site-01", "site-02", "site-03", "held-out-01"]
    assert many[0][119].name == "site-120"
    assert generate_sites(config.Generate(count=3), CLASSES, seed=8)[0][0].class_mix != few[0][0].class_mix
    stains = {s.stain.model_dump_json() for s in many[0] + many[1] if isinstance(s.stain, config.StainProfile)}
    assert len(stains) == 122
    assert {s.role for s in few[1]} == {"held_out"}
    assert {s.stain_strength for s in few[0]} == {0.5}


@pytest.mark.parametrize("alpha", [1e-9, 0.1, 1000.0, 1e300])
def test_generated_mixes_follow_alpha(alpha: float) -> None:
    sites, _ = generate_sites(config.Generate(count=200, dirichlet_alpha=alpha), CLASSES, seed=0)
    mixes = np.array([[(s.class_mix or {}).get(name, 0.0) for name in CLASSES] for s in sites])
    assert np.allclose(mixes.sum(axis=1), 1, atol=1e-3)
    assert np.abs(mixes.mean(axis=0) - 0.2).max() < 0.08
    # Var of a symmetric Dirichlet share: (1/5)(4/5) / (5 alpha + 1)
    expected = 0.4 / np.sqrt(5 * min(max(alpha, 1e-3), 1e6) + 1)
    assert abs(mixes.std(axis=0).mean() - expected) < 0.15 * expected + 1e-4
    leading = [max(s.class_mix or {}, key=lambda name: (s.class_mix or {})[name]) for s in sites]
    assert alpha > 1 or min(Counter(leading).values()) > 20


def test_a_pipeline_of_generated_sites_reads_back_equal(tmp_path: Path) -> None:
    made = pipeline([site("x")])
    train, held_out = generate_sites(config.Generate(count=4, held_out=2), CLASSES, seed=3)
    made = made.model_copy(update={"sites": config.Sites(train=train, held_out=held_out)})
    (tmp_path / "p.yaml").write_text(dump_pipeline(made), encoding="utf-8")
    assert load_pipeline(tmp_path / "p.yaml").sites == made.sites


def test_held_out_sites_may_have_an_alpha_of_their_own():
    skewed = config.Generate(count=4, held_out=3, dirichlet_alpha=0.1)
    train, _ = generate_sites(skewed, CLASSES, seed=0)
    same, held_out = generate_sites(skewed.model_copy(update={"held_out_alpha": 1000.0}), CLASSES, seed=0)
    assert same == train
    assert all(max(site.class_mix.values()) < 0.3 for site in held_out)
    assert all(max(site.class_mix.values()) > 0.4 for site in train)


def test_sizes_are_multiples_of_patches():
    train, held_out = generate_sites(config.Generate(count=3, held_out=1, patches=80, sizes=[2, 0.5]), CLASSES, seed=0)
    assert [site.patches for site in (*train, *held_out)] == [160, 40, 160, 80]
    with pytest.raises(ValueError, match="state that too"):
        config.Generate(count=3, sizes=[2])


def test_capacities_give_generated_sites_density_and_line():
    unequal = config.Generate(count=5, held_out=1, capacities=[1.0, 0.5, 0.1])
    train, held_out = generate_sites(unequal, CLASSES, seed=0)
    assert [site.density for site in train] == [1.0, 0.5, 0.1, 1.0, 0.5]
    assert [(site.link.down, site.link.up) for site in train[:3]] == [(20, 5), (10, 2.5), (2, 0.5)]
    assert held_out[0].link is None
    plain, _ = generate_sites(unequal.model_copy(update={"capacities": []}), CLASSES, seed=0)
    assert plain[0].link is None
    assert [site.class_mix for site in plain] == [site.class_mix for site in train]
