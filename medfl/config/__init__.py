"""The two kinds of file a user writes: a pipeline and a site.

Every rule that can be checked without looking at data or building a model is checked here, once, at load; each
error names file, key, value and what is allowed. Relative paths are relative to the file that states them and leave
this module absolute, so a resolved pipeline means the same from any working directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medfl.config.fields import ConfigSection as ConfigSection
from medfl.config.fields import Count as Count
from medfl.config.fields import Fraction as Fraction
from medfl.config.fields import Name as Name
from medfl.config.fields import NonNegative as NonNegative
from medfl.config.fields import Positive as Positive
from medfl.config.fields import Rgb as Rgb
from medfl.config.fields import Transform as Transform
from medfl.config.training import Augment as Augment
from medfl.config.training import Optimizer as Optimizer
from medfl.config.training import Schedule as Schedule
from medfl.config.training import Selection as Selection
from medfl.config.training import Training as Training


class Task(ConfigSection):
    """What is predicted. The order of `classes` is the index order everywhere; `malignant` are some of them."""

    classes: list[str] = Field(min_length=2)
    malignant: list[str] | None = None

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) != len(classes):
            raise ValueError("every class may be listed once only")
        return classes

    @model_validator(mode="after")
    def _names_fit(self) -> Task:
        named = set(self.malignant or ())
        if not named < set(self.classes) or ("malignant" in self.classes and named - {"malignant"}):
            raise ValueError("`malignant` names some of `classes`, not all, and no other where one has that name")
        return self


class Tissue(ConfigSection):
    """Generated tissue: how many source tiles a class, augmented copies a tile, pixels a side."""

    tiles_per_class: Count = 60
    copies: Count = 20
    size: int = Field(96, ge=32, le=512)
    seed: int = Field(0, ge=0)


class Splits(ConfigSection):
    """Shares of a training site's source groups; the rest trains."""

    val: float = Field(0.15, gt=0, lt=0.5)
    test: float = Field(0.2, gt=0, lt=0.5)


class OwnData(ConfigSection):
    """Where one site's own data lies; absent keys are taken from the pipeline's `data`."""

    source: str | None = None
    root: str | None = None
    source_groups: str | None = None


class Data(ConfigSection):
    """The catalog and how it becomes patches."""

    source: str
    root: str | None = None
    mode: Literal["dealt", "own"] = "dealt"
    size: int = Field(96, ge=16, le=1024)
    mpp: Positive | None = None
    source_groups: str | None = None
    stain_strength: Fraction = 1.0
    splits: Splits = Splits()
    render: list[Transform] = []
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    tissue: Tissue = Tissue()
    cache: str | None = None


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
    """One institution."""

    name: Name
    description: str = ""
    role: Literal["train", "held_out"] | None = None
    patches: Count | None = None
    class_mix: dict[str, Fraction] | None = None
    stain: str | StainProfile | None = None
    stain_strength: Fraction | None = None
    mpp: Positive | None = None
    labels: dict[str, str] = {}
    data: OwnData | None = None
    render: list[Transform] = []
    local_epochs: Count | None = None
    local_steps: Count | None = None
    link: SiteLink | None = None
    density: float = Field(1.0, gt=0, le=1)

    @field_validator("class_mix")
    @classmethod
    def _sums_to_one(cls, mix: dict[str, float] | None) -> dict[str, float] | None:
        if mix is not None and abs(sum(mix.values()) - 1.0) > 0.01:
            raise ValueError(f"the shares must sum to 1, not {sum(mix.values()):.3f}")
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


class ModelConfig(ConfigSection):
    """A timm backbone by name; `args` goes to `timm.create_model` untouched."""

    backbone: str
    pretrained: bool = False
    checkpoint: str | None = None
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_start(self) -> ModelConfig:
        if self.pretrained and self.checkpoint:
            raise ValueError("state pretrained: true or a checkpoint, not both")
        return self


class Evaluation(ConfigSection):
    """How figures are made: intervals, calibration and its bins, thresholds, the stability window and target."""

    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    bins: Annotated[int, Field(ge=5, le=100)] = 15
    batch_size: Count = 256
    window: Annotated[int, Field(ge=2)] = 10
    target: float = Field(0.95, gt=0.5, le=1)
    calibrate: Literal["temperature", "none"] = "temperature"
    sensitivity: float = Field(0.95, gt=0, le=1)
    members: int = Field(1000, ge=0)


class Tracking(ConfigSection):
    """MLflow. `uri: null` means MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory."""

    enabled: bool = True
    experiment: str = "medfl"
    uri: str | None = None


class Gates(ConfigSection):
    """What a model must reach to enter the registry; AUROC gates read the lower 95 % bound."""

    held_out_auroc_min: Fraction | None = None
    held_out_ece_max: Fraction | None = None
    worst_site_auroc_min: Fraction | None = None


class Registry(ConfigSection):
    """Registration at the end of a run."""

    name: str = Field(min_length=1)
    alias: str | None = None
    gates: Gates = Gates()
    margin: NonNegative = 0.01


class Pipeline(ConfigSection):
    """One experiment."""

    name: Name
    description: str = ""
    seed: int = Field(0, ge=0)
    task: Task
    data: Data
    sites: Sites
    model: ModelConfig
    training: Training
    method: list[str | dict[str, Any]] = []
    select: Literal["last"] | Selection = "last"
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    registry: Registry | None = None

    @property
    def train_sites(self) -> list[SiteConfig]:
        """The resolved training sites."""
        return [s for s in self.sites.train if isinstance(s, SiteConfig)]

    @property
    def held_out_sites(self) -> list[SiteConfig]:
        """The resolved held-out sites."""
        return [s for s in self.sites.held_out if isinstance(s, SiteConfig)]

    @property
    def all_sites(self) -> list[SiteConfig]:
        """Training sites, then held-out sites."""
        return self.train_sites + self.held_out_sites

    @property
    def cache_dir(self) -> Path:
        """Where generated tissue and rendered stores are kept between runs."""
        return Path(self.data.cache or os.environ.get("MEDFL_CACHE") or Path.home() / ".cache" / "medfl")
