"""One institution, and who takes part in a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medfl.config.data_config import OwnData
from medfl.config.fields import ConfigSection, Count, Fraction, Name, NonNegative, Positive, Rgb, Transform
from medfl.config.site_about import SiteAbout
from medfl.config.spelling import SpeltName
from medfl.errors import MedflError, nearest


class StainProfile(ConfigSection):
    """A laboratory's stain: unit optical densities per stain, concentration gains, gamma, white point (grey levels)."""

    haematoxylin: Rgb
    eosin: Rgb
    gain: tuple[Positive, Positive] = (1.0, 1.0)
    gamma: Positive = 1.0
    white: Rgb = (255.0, 255.0, 255.0)


class SiteLink(ConfigSection):
    """A site's line and speed on the virtual clock: Mbit/s each way, seconds a local step, sigma of a lognormal
    factor on the whole."""

    down: Positive
    up: Positive
    seconds_per_step: Positive
    jitter: NonNegative = 0.0


class SiteConfig(ConfigSection):
    """One institution. `labels` maps its words for classes to those of `task.classes`; null drops a word's patches."""

    name: Name
    description: str = ""
    role: Literal["train", "held_out"] | None = None
    patches: Count | None = None
    class_mix: dict[SpeltName, Fraction] | None = None
    stain: str | StainProfile | None = None
    stain_strength: Fraction | None = None
    mpp: Positive | None = None
    labels: dict[SpeltName, SpeltName | None] = {}
    data: OwnData | None = None
    render: list[Transform] = []
    local_epochs: Count | None = None
    local_steps: Count | None = None
    link: SiteLink | None = None
    density: float = Field(1.0, gt=0, le=1)
    min_count: Count | None = None
    about: SiteAbout | None = None

    def stated_mix(self, classes: Sequence[str]) -> tuple[float, ...] | None:
        """Its `class_mix` in the order of `classes`, absent ones with 0; None where it states none.

        Raises:
            MedflError: it names a class that is none of these.
        """
        if self.class_mix is None:
            return None
        if strange := next((name for name in self.class_mix if name not in classes), None):
            raise MedflError(
                f"site {self.name}: `class_mix` names the class {strange}, which is not in `task.classes` "
                f"({', '.join(classes)}).{nearest(strange, classes)}"
            )
        return tuple(self.class_mix.get(name, 0.0) for name in classes)

    @field_validator("class_mix")
    @classmethod
    def _sums_to_one(cls, mix: dict[str, float] | None) -> dict[str, float] | None:
        if mix is not None and abs(math.fsum(mix.values()) - 1.0) > 0.01:
            raise ValueError(f"the shares must sum to 1, not {math.fsum(mix.values()):.3f}")
        return mix

    @model_validator(mode="after")
    def _one_measure_of_work(self) -> SiteConfig:
        if self.local_epochs and self.local_steps:
            raise ValueError("state local_epochs or local_steps, not both")
        return self


class Generate(ConfigSection):
    """Simulated institutions drawn from the pipeline's seed: class mix ~ Dirichlet(alpha), random stain."""

    count: Count
    held_out: int = Field(0, ge=0)
    patches: Count | None = None
    dirichlet_alpha: Positive = 0.5
    held_out_alpha: Positive | None = None
    stain_strength: Fraction = 0.5
    capacities: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[])
    sizes: list[Positive] = Field(default=[])

    @model_validator(mode="after")
    def _sizes_of_patches(self) -> Generate:
        if self.sizes and self.patches is None:
            raise ValueError("`sizes` are multiples of `patches`; state that too")
        return self


class Sites(ConfigSection):
    """Who trains and who is only measured: paths of site files (or site mappings), or `generate`."""

    train: list[str | SiteConfig] = []
    held_out: list[str | SiteConfig] = []
    generate: Generate | None = None

    @model_validator(mode="after")
    def _listed_or_generated(self) -> Sites:
        if self.generate and (self.train or self.held_out):
            raise ValueError("list sites or generate them, not both")
        if not self.generate and not self.train:
            raise ValueError("at least one training site is needed, under `train` or through `generate`")
        return self
