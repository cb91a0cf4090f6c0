"""Simulated institutions drawn from a seed: class mix from a Dirichlet distribution, a random stain."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from medfl.config import Generate, SiteConfig, SiteLink, StainProfile
from medfl.data.stain import random_stain
from medfl.seeds import seed_for

SECONDS_PER_STEP = 0.05  # on the virtual clock, where capacities are stated
JITTER = 0.3
DIGITS = 4  # figures are rounded so that a resolved pipeline reads well and reads back equal


def generate_sites(generate: Generate, classes: Sequence[str], seed: int) -> tuple[list[SiteConfig], list[SiteConfig]]:
    """Explicit training and held-out sites, `site-01...` and `held-out-01...`.

    Every site has a seed of its own, so site k is the same whatever the number of sites; mix and stain are drawn
    apart, so a site keeps its stain when the classes change. Class mix ~ Dirichlet(alpha, ..., alpha): a small alpha
    gives sites of nearly one class, a large one gives all sites the same mix (Hsu et al., arXiv 1909.06335).
    """
    train, held_out = _draw_sites(generate.model_dump_json(), tuple(classes), seed)
    return list(train), list(held_out)


@functools.lru_cache(maxsize=64)
def _draw_sites(
    settings: str, classes: tuple[str, ...], seed: int
) -> tuple[tuple[SiteConfig, ...], tuple[SiteConfig, ...]]:
    """What `generate_sites` says; a study asks for the same institutions with every one of its methods."""
    generate = Generate.model_validate_json(settings)
    train = [
        _site(generate, classes, seed, "train", f"site-{k:02d}").model_copy(update=_own(generate, k))
        for k in range(1, generate.count + 1)
    ]
    held_out = [
        _site(generate, classes, seed, "held_out", f"held-out-{k:02d}") for k in range(1, generate.held_out + 1)
    ]
    return tuple(train), tuple(held_out)


def _own(generate: Generate, k: int) -> dict[str, Any]:
    """What the pipeline states for training site k alone."""
    return _capacity(generate, k) | _size(generate, k)


def _capacity(generate: Generate, k: int) -> dict[str, Any]:
    """Line and density of training site k, if the pipeline states capacities: an unequal federation as in FedGMR's
    experiments (arXiv 2512.05372), 20 Mbit/s down and 5 up times the site's capacity."""
    if not generate.capacities:
        return {}
    share = generate.capacities[(k - 1) % len(generate.capacities)]
    line = SiteLink(down=20 * share, up=5 * share, seconds_per_step=SECONDS_PER_STEP, jitter=JITTER)
    return {"density": share, "link": line}


def _size(generate: Generate, k: int) -> dict[str, int]:
    """Patches of training site k, if the pipeline states how sizes differ."""
    if not generate.sizes or generate.patches is None:
        return {}
    return {"patches": max(1, round(generate.patches * generate.sizes[(k - 1) % len(generate.sizes)]))}


def _site(
    generate: Generate, classes: Sequence[str], seed: int, role: Literal["train", "held_out"], name: str
) -> SiteConfig:
    rng = np.random.default_rng(seed_for(seed, "class mix", name))
    own = generate.held_out_alpha if role == "held_out" else None
    # Beyond these bounds the draw loses its precision and changes nothing.
    alpha = min(max(own or generate.dirichlet_alpha, 1e-3), 1e6)
    mix = rng.dirichlet(np.full(len(classes), alpha)).round(DIGITS)
    stain = random_stain(np.random.default_rng(seed_for(seed, "stain", name)))
    profile = {key: np.round(value, DIGITS).tolist() for key, value in asdict(stain).items()}
    leading = int(mix.argmax())
    return SiteConfig(
        name=name,
        description=f"Simulated institution, {mix[leading]:.0%} {classes[leading]}",
        role=role,
        patches=generate.patches,
        class_mix={label: float(part) for label, part in zip(classes, mix, strict=True) if part > 0},
        stain=StainProfile(**profile),
        stain_strength=generate.stain_strength,
    )
