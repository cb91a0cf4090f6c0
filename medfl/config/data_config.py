"""What is predicted, where patches come from, and how they are split and rendered."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medfl.config.fields import ConfigSection, Count, Fraction, NonNegative, Positive, Transform
from medfl.config.spelling import SpeltName, show, spelt_alike


class Task(ConfigSection):
    """What is predicted. The order of `classes` is the index order everywhere; `malignant` are some of them."""

    classes: list[SpeltName] = Field(min_length=2)
    malignant: list[SpeltName] | None = None

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) != len(classes):
            raise ValueError("every class may be listed once only")
        for one, other in spelt_alike(classes):
            raise ValueError(f'"{show(one)}" and "{show(other)}" differ in spelling only; rename one of them')
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


class DrawnSlides(ConfigSection):
    """Generated slides: how many patients, one slide each, microns of a slide's longer side, microns per pixel of the
    first of two scanners."""

    patients: Count = 24
    width: float = Field(1400.0, ge=200, le=10_000)
    mpp: float = Field(0.5, ge=0.2, le=4)
    seed: int = Field(0, ge=0)


class TileSettings(ConfigSection):
    """How slides become tiles: pixels a side, microns per pixel, pixels that neighbours share, the least share of
    tissue, the most tiles of one slide."""

    size: int | None = Field(None, ge=16, le=2048)
    mpp: Positive | None = None
    overlap: int = Field(0, ge=0)
    min_tissue: Fraction = 0.5
    per_slide_max: Count | None = None
    skip_damaged: bool = False


class GeneratedBags(ConfigSection):
    """Generated feature folders: patients of a site, tiles of a slide, how many of them tell the class, numbers of a
    feature vector, and how far two sites' vectors lie apart."""

    patients: Count = 40
    tiles: tuple[Count, Count] = (30, 90)
    telling: Count = 2
    dim: int = Field(32, ge=2, le=4096)
    shift: NonNegative = 0.5
    seed: int = Field(0, ge=0)


class FeatureTables(ConfigSection):
    """Tables beside a folder of features: `table` says each slide's or patient's label, `slide_table` which slides are
    a patient's, `label` the column of the label; `encoder` is what made the features, where the files do not agree."""

    table: str | None = None
    slide_table: str | None = None
    label: str | None = None
    encoder: str | None = Field(None, min_length=1, max_length=60)


class Splits(ConfigSection):
    """Shares of a training site's source groups; the rest trains."""

    val: float = Field(0.15, gt=0, lt=0.5)
    test: float = Field(0.2, gt=0, lt=0.5)


class OwnData(ConfigSection):
    """Where one site's own data lies; absent keys are taken from the pipeline's `data`."""

    source: str | None = None
    root: str | None = None
    source_groups: str | None = None
    distinct_names: list[SpeltName] | None = None
    features: FeatureTables | None = None


class StainNormalisation(ConfigSection):
    """Every site's patches brought from its own stain to one that all share: a federated reference is the mean of the
    training sites' own statistics, a fixed one travels with medfl."""

    method: Literal["reinhard", "macenko"]
    reference: Literal["federated", "fixed"] = "federated"


class CompressedStore(ConfigSection):
    """How patches lie in the cache: as JPEGs of a quality, without chroma subsampling."""

    jpeg: int = Field(95, ge=50, le=100)


class Data(ConfigSection):
    """The catalog and how it becomes patches. `normalise` by its method alone takes a federated reference, `store:
    jpeg` its default quality."""

    source: str
    root: str | None = None
    mode: Literal["dealt", "own"] = "dealt"
    size: int = Field(96, ge=16, le=1024)
    mpp: Positive | None = None
    source_groups: str | None = None
    distinct_names: list[SpeltName] | None = None
    stain_strength: Fraction = 1.0
    splits: Splits = Splits()
    render: list[Transform] = []
    normalise: StainNormalisation | None = None
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    tissue: Tissue = Tissue()
    tile: TileSettings | None = None
    slides: DrawnSlides | None = None
    features: FeatureTables | None = None
    bags: GeneratedBags | None = None
    store: CompressedStore | None = None
    cache: str | None = None

    @field_validator("normalise", mode="before")
    @classmethod
    def _method_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return None if value == "none" else {"method": value}
        return value

    @field_validator("store", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"raw": None, "jpeg": {}}.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _only_patches_are_compressed(self) -> Data:
        if self.source == "features" and self.store:
            raise ValueError("`store` is for patches; remove it, since features of slides are kept as they are")
        return self

    @model_validator(mode="after")
    def _tiles_show_the_field(self) -> Data:
        tile = self.tile or TileSettings()
        if tile.overlap >= (tile.size or self.size):
            raise ValueError(f"`tile.overlap` is {tile.overlap} pixels and a tile has {tile.size or self.size}")
        if tile.mpp and not self.mpp:
            raise ValueError(
                f"`mpp` is missing beside `tile.mpp`; a tile of {tile.size or self.size} pixels at {tile.mpp:g} is "
                f"`mpp: {(tile.size or self.size) * tile.mpp / self.size:g}` at `size: {self.size}`"
            )
        if self.mpp and (tile.mpp or tile.size):
            field, shown = (tile.size or self.size) * (tile.mpp or self.mpp), self.size * self.mpp
            if abs(field - shown) > 0.01 * shown:
                raise ValueError(
                    f"a tile is {field:g} microns wide (`tile.size` x `tile.mpp`) and the model sees {shown:g} (`size` "
                    f"x `mpp`); make them agree, or remove `tile.size` and `tile.mpp`, which follow `size` and `mpp`"
                )
        return self
