"""One experiment: its model, method, evaluation, tracking and registration, and all sections together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from medfl.config.adapt_config import Adapt
from medfl.config.data_config import Data, Task
from medfl.config.fields import ConfigSection, Count, Fraction, Name, NonNegative
from medfl.config.model_config import ModelConfig
from medfl.config.program_parts import ProgramParts
from medfl.config.site_config import SiteConfig, Sites
from medfl.config.subgroup_config import SubgroupEntries, column_edges
from medfl.config.training_config import Selection, Training
from medfl.errors import nearest

MOST_CLASSES = 100
"""Of a vector scaling: with more its sums are no small message."""
Baseline = Literal["local_only", "centralised"]
IMAGE_AUGMENTATION = ("brightness", "contrast", "saturation", "hue", "stain", "exchange", "jitter", "views")
NOTHING_TO_ACT_ON = {
    "local_only": "local_only trains each site alone",
    "centralised": "centralised trains on pooled data in one place",
}


class CalibrationFit(ConfigSection):
    """How the final model is calibrated: what is fitted, how loud each site is, and through how many random
    laboratories validation patches are seen (`stain_strength` from the reference), 0 for as they are."""

    method: Literal["temperature", "vector"] = "temperature"
    weights: Literal["patches", "sites"] = "patches"
    laboratories: int = Field(0, ge=0, le=64)
    stain_strength: float = Field(0.5, gt=0, le=1)


class TopPatches(ConfigSection):
    """A slide or patient is scored by so many of its patches, those that look most malignant."""

    top: Count


class Evaluation(ConfigSection):
    """How figures are made: intervals, calibration and its bins, thresholds, the stability window and target, and the
    columns of sites' tables whose subgroups have figures of their own."""

    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    bins: Annotated[int, Field(ge=5, le=100)] = 15
    batch_size: Count = 256
    window: Annotated[int, Field(ge=2)] = 10
    target: float = Field(0.95, gt=0.5, le=1)
    calibrate: Literal["temperature", "vector", "none"] | CalibrationFit = "temperature"
    sensitivity: float = Field(0.95, gt=0, le=1)
    members: int = Field(1000, ge=0)
    monitoring: bool | None = None
    patients: Literal["mean"] | TopPatches = "mean"
    subgroups: SubgroupEntries | None = None

    @property
    def fit(self) -> CalibrationFit | None:
        """How the model is calibrated; None where it is not."""
        if self.calibrate == "none":
            return None
        return CalibrationFit(method=self.calibrate) if isinstance(self.calibrate, str) else self.calibrate

    @property
    def top(self) -> int:
        """How many patches stand for a slide or patient; 0 for all of them."""
        return self.patients.top if isinstance(self.patients, TopPatches) else 0

    @property
    def columns(self) -> dict[str, tuple[float, ...]]:
        """The columns of subgroups, each with the edges of its bins."""
        return column_edges(self.subgroups or [])


class UpdateTransport(ConfigSection):
    """How updates travel: as they are, or in half the bytes, every value rounded at the site to 8 significant bits."""

    dtype: Literal["float32", "bfloat16"] = "float32"


class Disclosure(ConfigSection):
    """What sites tell of few patients: a cell of fewer source groups than `min_count` is pooled or withheld."""

    min_count: Count = 5


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
    held_out_adapted_auroc_min: Fraction | None = None
    held_out_adapted_ece_max: Fraction | None = None
    held_out_patient_auroc_min: Fraction | None = None
    held_out_patient_mean_auroc_min: Fraction | None = None
    held_out_patient_ece_max: Fraction | None = None
    held_out_slide_auroc_min: Fraction | None = None
    worst_subgroup_auroc_min: Fraction | None = None


class Registry(ConfigSection):
    """Registration at the end of a run."""

    name: str = Field(min_length=1)
    alias: str | None = None
    gates: Gates = Gates()
    margin: NonNegative = 0.01


class Pipeline(ConfigSection):
    """One experiment. `baseline` replaces the federation: `local_only` or `centralised`."""

    name: Name
    description: str = ""
    seed: int = Field(0, ge=0)
    task: Task
    data: Data
    sites: Sites
    model: ModelConfig
    training: Training
    method: list[str | dict[str, Any]] = []
    baseline: Baseline | None = None
    select: Literal["last"] | Selection = "last"
    evaluation: Evaluation = Evaluation()
    adapt: Adapt | None = None
    disclosure: Disclosure = Disclosure()
    transport: UpdateTransport | None = None
    tracking: Tracking = Tracking()
    registry: Registry | None = None
    _notices: tuple[str, ...] = PrivateAttr(())
    _parts: ProgramParts = PrivateAttr(ProgramParts())

    @model_validator(mode="after")
    def _baseline_alone(self) -> Pipeline:
        if self.baseline and self.method:
            first = self.method[0]
            name = first if isinstance(first, str) else first.get("name")
            raise ValueError(f"{NOTHING_TO_ACT_ON[self.baseline]}, so {name} has nothing to act on; keep one of them")
        return self

    @model_validator(mode="after")
    def _adapts_one_model(self) -> Pipeline:
        if self.adapt and self.baseline == "local_only":
            raise ValueError("`adapt` is done to one global model, which local_only does not have; remove one of them")
        if self.adapt and self.data.normalise and "normalise" in self.adapt.name:
            raise ValueError("`data.normalise` normalises all patches, so `adapt.remedy` has not to; remove it there")
        gates = self.registry.gates if self.registry else Gates()
        if not self.adapt and (
            gates.held_out_adapted_auroc_min is not None or gates.held_out_adapted_ece_max is not None
        ):
            raise ValueError("`registry.gates` reads figures of the adapted model, and nothing is; state `adapt`")
        if gates.worst_subgroup_auroc_min is not None and not self.evaluation.subgroups:
            raise ValueError(
                "`registry.gates.worst_subgroup_auroc_min` reads figures of subgroups; name the columns of them under "
                "`evaluation.subgroups`"
            )
        return self

    @model_validator(mode="after")
    def _one_stain(self) -> Pipeline:
        if self.training.augment.exchange and self.data.normalise:
            raise ValueError(
                "`data.normalise` brings all patches to one stain, and `training.augment.exchange` gives them the dyes "
                "of many; remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _dyes_meet(self) -> Pipeline:
        if self.training.augment.exchange and self.baseline:
            raise ValueError(
                f"`training.augment.exchange` gives sites the dyes of others, and {NOTHING_TO_ACT_ON[self.baseline]}; "
                f"remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _class_weights_fit(self) -> Pipeline:
        strange = sorted(set(self.training.class_weights or {}) - set(self.task.classes))
        if strange:
            raise ValueError(
                f"`training.class_weights` names {strange[0]}, which is not in `task.classes` "
                f"({', '.join(self.task.classes)}).{nearest(strange[0], self.task.classes)}"
            )
        return self

    @model_validator(mode="after")
    def _features_stay(self) -> Pipeline:
        if self.training.augment.views and self.model.train != "head":
            raise ValueError(
                "`training.augment.views` keeps the features of a frozen backbone, and this one trains; remove it, or "
                "write `model.train: head`"
            )
        return self

    @model_validator(mode="after")
    def _calibration_fits(self) -> Pipeline:
        fit, classes = self.evaluation.fit, len(self.task.classes)
        if fit is not None and fit.laboratories and self.data.normalise:
            raise ValueError(
                "`evaluation.calibrate.laboratories` restains patches that `data.normalise` has brought to one "
                "laboratory, and no site normalises them again; keep one of them"
            )
        if fit is not None and fit.method == "vector" and classes > MOST_CLASSES:
            raise ValueError(
                f"`evaluation.calibrate`: vector sends {(2 * classes) ** 2:,} sums a point for {classes} classes and "
                f"takes at most {MOST_CLASSES}; use temperature"
            )
        return self

    @model_validator(mode="after")
    def _bags_are_no_images(self) -> Pipeline:
        training, augment = self.training, self.training.augment
        if not self.model.mil:
            if augment.bag_dropout is not None:
                raise ValueError("`training.augment.bag_dropout` leaves out tiles of a bag, which `model.mil` reads")
            return self
        keys = {f"training.augment.{key}": getattr(augment, key) for key in IMAGE_AUGMENTATION}
        keys |= {"data.render": self.data.render, "training.channels_last": training.channels_last}
        keys |= {"training.compile": training.compile, "data.normalise": self.data.normalise, "adapt": self.adapt}
        keys |= {"evaluation.calibrate.laboratories": self.evaluation.fit and self.evaluation.fit.laboratories}
        for key, value in keys.items():
            if value:
                raise ValueError(f"`{key}` is for images of one size, and `model.mil` reads bags; remove it")
        return self

    @property
    def notices(self) -> tuple[str, ...]:
        """What its reader has to tell the user: a sentence for each key in an old spelling."""
        return self._notices

    def with_notices(self, notices: tuple[str, ...]) -> Pipeline:
        """The same pipeline with these sentences for the user."""
        copy = self.model_copy()
        copy._notices = notices
        return copy

    @property
    def parts(self) -> ProgramParts:
        """What a program hands over beside the file; none in a pipeline that was read from one."""
        return self._parts

    def with_parts(self, parts: ProgramParts) -> Pipeline:
        """The same pipeline with these parts of the program."""
        copy = self.model_copy()
        copy._parts = parts
        return copy

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

    def min_count(self, site: SiteConfig) -> int:
        """The least source groups behind a cell of what a site tells; a site may ask for more than the pipeline."""
        return max(self.disclosure.min_count, site.min_count or 0)

    @property
    def cache_dir(self) -> Path:
        """Where generated tissue and rendered stores are kept between runs."""
        return Path(self.data.cache) if self.data.cache else default_cache()


def default_cache() -> Path:
    """The cache where no pipeline names one: the environment variable MEDFL_CACHE, or ~/.cache/medfl."""
    return Path(os.environ.get("MEDFL_CACHE") or Path.home() / ".cache" / "medfl")
