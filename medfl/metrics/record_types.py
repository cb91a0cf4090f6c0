"""The shapes of what is measured and recorded: a site's figures, a site's part of a round, a round, a summary.

These are the dictionaries as they lie in `rounds.jsonl` and `summary.json`; docs/architecture.md tells of every key. A
figure of the table in `medfl.metrics.figures` is read by its row's key, so only those that code names are listed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

Role = Literal["train", "held_out"]
RecordRole = Literal["train", "held_out", "pool"]


class ClassSupport(TypedDict):
    """What a site has of one class; None is withheld."""

    patches: int | None
    groups: int | None


class SiteFigures(TypedDict, total=False):
    """What `measure` returns of one site's patches; None is "not available".

    The later keys are there once a finished model was measured: with the figures before calibration and at operating
    points.
    """

    n: int
    n_groups: int
    few_groups: bool
    supported_classes: list[str]
    support: dict[str, ClassSupport]
    auroc: float | None
    auroc_ci: Sequence[float] | None
    auroc_se: float | None
    auroc_df: float | None
    auroc_least: Mapping[str, float] | None
    auroc_per_class: dict[str, float | None]
    auroc_per_class_ci: dict[str, Sequence[float] | None]
    balanced_accuracy: float | None
    accuracy: float | None
    loss: float | None
    ece: float | None
    ece_before: float | None
    debiased_ece: float | None
    classwise_ece: float | None
    brier: float | None
    nll: float | None
    confusion: list[list[int | None]]
    reliability: Mapping[str, Any]
    reliability_before: Mapping[str, Any]
    operating: Mapping[str, Mapping[str, Any]]
    membership: Mapping[str, Any]
    withheld: Mapping[str, Any]
    adaptation: AdaptationRecord
    slides: SiteFigures
    patients: SiteFigures
    left_out: str


class AdaptationRecord(TypedDict):
    """What was done at a site: the steps of the remedy, those left out and why (`medfl.metrics.remedies.REASONS`), the
    unlabelled patches adapted on and their source groups."""

    steps: list[str]
    left_out: dict[str, str]
    patches: int
    groups: int


class AdaptedResult(AdaptationRecord):
    """A site's figures on the source groups that were not adapted on: of the adapted model, and of the plain one."""

    figures: SiteFigures
    plain: SiteFigures


class SiteResult(SiteFigures):
    """A site's entry of `summary.json`: its test figures, its role, those of models that a method keeps there, and
    those of the adapted model."""

    role: Role
    models: NotRequired[Mapping[str, SiteFigures]]
    adapted: NotRequired[AdaptedResult]


class SiteRecord(TypedDict, total=False):
    """A site's part of a round record: its role and bytes, and what it trained or measured in that round.

    The role of `baseline: centralised`'s one place is "pool".
    """

    role: RecordRole
    bytes_down: int
    bytes_up: int
    val: SiteFigures
    test: SiteFigures
    val_personalised: SiteFigures
    samples: int
    steps: int
    train_loss: float | None
    age: int


class FailureRecord(TypedDict):
    """A site that did not do its part, and why."""

    site: str
    reason: str


class UpdateRecord(TypedDict):
    """A round's updates as the sites sent them, sum_i p_i ||D_i||^2 and ||D||^2 with D = sum_i p_i D_i (None in a
    private run), and what the global model made of them: the cosine to its step before, its change by stage."""

    mean_sq: float | None
    sq: float | None
    cosine: float | None
    inertia: dict[str, float | None]


class RoundRecord(TypedDict):
    """One line of `rounds.jsonl`: figures of the model that enters the round, and the update made in it."""

    round: int
    evaluated: bool
    counted: bool
    lr_scale: float
    participants: list[str]
    failures: list[FailureRecord]
    sites: dict[str, SiteRecord]
    update: UpdateRecord | None
    virtual_seconds: NotRequired[float]
    wall_seconds: NotRequired[float]
    privacy: NotRequired[Mapping[str, Any]]


class RunFailure(FailureRecord):
    """A failure in a summary: of a round, or of the closing `phase` (validation, test) on the model selected."""

    round: int
    phase: NotRequired[str]


class RunSummary(TypedDict):
    """`summary.json`: what a run came to. Figures of sites and groups are in the rows of the table of figures.

    A run with baseline `local_only` has `cross_site_auroc` and `temperatures` (with vector scaling `calibrations` too),
    one with `dp` has `privacy`, one that closed early `stopped`, one that adapts `adaptation`.
    """

    pipeline: str
    run: str
    method: str
    chain: list[dict[str, Any]]
    seed: int
    leaky: bool
    source: str
    mode: str
    rounds: int
    selected_round: int
    select: str | dict[str, Any]
    classes: list[str]
    temperature: float | None
    calibration: dict[str, Any] | None
    operating: dict[str, Any] | None
    sites: dict[str, SiteResult]
    held_out: dict[str, Any]
    train_sites: dict[str, Any]
    pooled: dict[str, Any] | None
    stability: dict[str, Any]
    virtual_seconds: float | None
    failures: list[RunFailure]
    model: dict[str, Any]
    mpp: float | None
    threads: int
    versions: dict[str, str]
    timings: NotRequired[dict[str, float]]
    privacy: NotRequired[dict[str, Any]]
    cross_site_auroc: NotRequired[dict[str, dict[str, float | None]]]
    temperatures: NotRequired[dict[str, float | None]]
    calibrations: NotRequired[dict[str, dict[str, Any]]]
    papers: NotRequired[dict[str, str]]
    stopped: NotRequired[dict[str, Any]]
    site_signature: NotRequired[dict[str, Any]]
    adaptation: NotRequired[dict[str, Any]]
