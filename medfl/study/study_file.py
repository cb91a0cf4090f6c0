"""The study file, and the runs it asks for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medfl import config
from medfl.config.resolved import rename_old_keys
from medfl.config.yaml_file import read_mapping, validate
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline, plain_mapping
from medfl.study.content_key import content_key
from medfl.study.endpoints import Comparisons, Endpoints
from medfl.study.tuning import Grid, read_choices

BRACKETS: tuple[config.Baseline, ...] = ("local_only", "centralised")
ALL = "all partitions"
PLAIN = "as_stated"  # the partition of a study that names none


class Arm(config.ConfigSection):
    """A method of a study, or a baseline in its place, and keys of the pipeline that go with it (a learning rate,
    say); `tuned_as` takes what was tuned for another method; `federations` is how many of the seeds it has, from the
    first on, where it is asked less often than the others."""

    method: list[str | dict[str, Any]] = Field(default=[])
    baseline: config.Baseline | None = None
    set: dict[str, Any] = Field(default={})
    tuned_as: str | None = None
    federations: Annotated[int, Field(ge=1)] | None = None

    @property
    def chain(self) -> list[str | dict[str, Any]]:
        """The baseline, or the entries of the method's chain."""
        return [self.baseline] if self.baseline else self.method


class StudyFile(config.ConfigSection):
    """Many runs of one pipeline: every method on every partition with every seed."""

    name: config.Name
    description: str = ""
    pipeline: str
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    methods: dict[str, Arm] = Field(min_length=1)
    partitions: dict[str, dict[str, Any]] = Field(default={})
    leave_one_site_out: bool = False
    brackets: bool = True
    figure: Literal["held_out_mean_auroc", "held_out_worst_auroc", "train_mean_auroc", "train_worst_auroc"] | None = (
        None
    )
    unit: Literal["federation", "seed"] = "federation"
    endpoints: Endpoints | None = None
    comparisons: Comparisons | None = None
    design: str | None = None
    grid: Grid | None = None
    tuned: str | None = None

    @field_validator("methods", mode="before")
    @classmethod
    def _chains_in_full(cls, methods: Any) -> Any:
        if not isinstance(methods, dict):
            return methods
        return {name: {"method": arm} if isinstance(arm, list) else arm for name, arm in methods.items()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted_seeds(cls, seeds: Any) -> Any:
        if not isinstance(seeds, dict):
            return seeds
        if set(seeds) != {"first", "count"} or not all(isinstance(value, int) for value in seeds.values()):
            raise ValueError("write a list of seeds, or {first: 1, count: 200}")
        return list(range(seeds["first"], seeds["first"] + seeds["count"]))

    @field_validator("seeds")
    @classmethod
    def _no_seed_twice(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed stands twice; each counts once")
        return seeds

    @field_validator("partitions")
    @classmethod
    def _reserved_name(cls, partitions: dict[str, Any]) -> dict[str, Any]:
        if ALL in partitions:
            raise ValueError(f"{ALL!r} is what the study calls all of them together; choose another name")
        return partitions

    @model_validator(mode="after")
    def _compared_methods(self) -> StudyFile:
        if self.comparisons is None:
            return self
        self.comparisons.check_endpoints(self.endpoints)
        for pair in (*self.comparisons.primary, *self.comparisons.secondary):
            if missing := [name for name in pair if name not in self.arms()]:
                raise ValueError(f"`comparisons` name {missing[0]!r}, which is none of the methods")
            if pair[0] == pair[1]:
                raise ValueError(f"`comparisons` compare {pair[0]!r} with itself")
        return self

    def arms(self) -> dict[str, Arm]:
        """The methods by name, in the order of the file; then the brackets that the file does not name itself."""
        arms = dict(self.methods)
        listed = {arm.baseline for arm in arms.values()}
        missing = [name for name in BRACKETS if name not in listed] if self.brackets else []
        only_last = {"select": "last", "training.sites_per_round": None}
        arms |= {name: Arm(baseline=name, set=only_last) for name in missing}
        if self.grid is None:
            return arms
        return {
            tried: arm.model_copy(update={"set": arm.set | setting})
            for name, arm in arms.items()
            for tried, setting in self.grid.arms(name)
        }


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Attributes:
        partition, method, seed: what the file calls it.
        fold: the training site that this run leaves out and measures; "" without folds.
        pipeline: resolved; tracking and registry are the study's business.
        key: digest of all that decides the run's figures but its data and its machine.
    """

    partition: str
    method: str
    seed: int
    fold: str
    pipeline: config.Pipeline
    key: str

    @property
    def title(self) -> str:
        """For people."""
        return " · ".join(
            [self.partition, self.method, f"seed {self.seed}", *([f"without {self.fold}"] * bool(self.fold))]
        )

    @property
    def identity(self) -> dict[str, str | int]:
        """The columns that name a run in every table."""
        return {"partition": self.partition, "method": self.method, "seed": self.seed, "fold": self.fold}


@dataclass(frozen=True)
class StudyPlan:
    """A study file and its runs, in the order partition, seed, method, fold; `notices` are for its user, `design` is
    the SHA-256 of the page that says beforehand what the study asks."""

    file: StudyFile
    runs: tuple[Planned, ...]
    notices: tuple[str, ...] = ()
    design: str | None = None

    @property
    def methods(self) -> list[str]:
        """Names of the methods; the first is the one that the others are compared with."""
        return list(self.file.arms())

    @property
    def partitions(self) -> list[str]:
        """Names of the partitions."""
        return list(self.file.partitions) or [PLAIN]

    @property
    def in_turn(self) -> list[Planned]:
        """The runs as they are carried out. Where endpoints are stated: primary comparisons first, and federation by
        federation, so that a study that is ended early has whole ones."""
        order = {seed: index for index, seed in enumerate(self.file.seeds)}
        compared = self.file.comparisons
        first = {name for pair in compared.primary for name in pair} if compared else set()
        in_turn = sorted(self.runs, key=lambda run: (run.method not in first, order[run.seed]))
        return in_turn if self.file.endpoints else list(self.runs)

    @property
    def figure(self) -> str:
        """The figure of the headline: what the file says, else the mean over held-out sites where there are any."""
        held_out = any(run.pipeline.held_out_sites for run in self.runs)
        return self.file.figure or ("held_out_mean_auroc" if held_out else "train_mean_auroc")


def load_study(path: Path | str | Mapping[str, Any], overrides: Sequence[str] = ()) -> StudyPlan:
    """Read a study file and resolve every run it asks for; `overrides` act on the pipeline, before the study's own. A
    mapping stands for such a file in the working directory, and its `pipeline` may be one too.

    Raises:
        MedflError: no such file, unknown keys, a pipeline that is missing or does not load with a method's keys.
    """
    inline: dict[str, Any] | None = None
    if isinstance(path, Mapping):
        file, raw = Path("study"), plain_mapping(path, "study")
        if isinstance(raw.get("pipeline"), dict):
            inline = raw["pipeline"]
            raw["pipeline"] = str(inline.get("name"))
    else:
        file = Path(path)
        raw = read_mapping(file, "study")
    if "training" in raw and "methods" not in raw:
        raise MedflError(
            f"{file} is a pipeline file, not a study; a study names `pipeline`, `seeds` and `methods` "
            f"(docs/studies.md), or take `medfl study --leave-one-site-out {file}`"
        )
    notices = _rename_in_arms(raw)
    spec = validate(StudyFile, raw, file)
    if inline is not None:
        design = _digest_of_design(spec, file)
        return replace(_resolve(spec, inline, list(overrides), str(file)), notices=notices, design=design)
    base = file.parent / os.path.expanduser(spec.pipeline)
    if not base.is_file():
        raise MedflError(f"{file}: `pipeline`: there is no pipeline file {base}")
    design = _digest_of_design(spec, file)
    return replace(_resolve(spec, base, list(overrides), str(file)), notices=notices, design=design)


def _digest_of_design(spec: StudyFile, file: Path) -> str | None:
    if spec.design is None:
        return None
    page = file.parent / os.path.expanduser(spec.design)
    if not page.is_file():
        raise MedflError(f"{file}: `design`: there is no file {page}; it is to be written before the first run")
    return hashlib.sha256(page.read_bytes()).hexdigest()


def _rename_in_arms(raw: dict[str, Any]) -> tuple[str, ...]:
    """Put the methods of a study file into the present spelling, in place; a sentence about each old one."""
    notices: list[str] = []
    methods = raw.get("methods")
    if not isinstance(methods, dict):
        return ()
    for name, arm in methods.items():
        settings = {"method": arm} if isinstance(arm, list) else arm
        if isinstance(settings, dict) and (renamed := rename_old_keys(settings)):
            methods[name] = settings
            notices += [f"methods.{name}: {notice}" for notice in renamed]
    return tuple(notices)


def leave_one_site_out(path: Path | str, overrides: Sequence[str] = ()) -> StudyPlan:
    """The study in which every training site of one pipeline takes its turn as the unseen one."""
    pipeline = load_pipeline(path, overrides)
    spec = StudyFile(
        name=pipeline.name,
        description=pipeline.description,
        pipeline=str(path),
        seeds=[pipeline.seed],
        methods={
            pipeline.baseline or _chain_name(pipeline.method): Arm(method=pipeline.method, baseline=pipeline.baseline)
        },
        leave_one_site_out=True,
        brackets=False,
    )
    return replace(_resolve(spec, Path(path), list(overrides), str(path)), notices=pipeline.notices)


def _chain_name(method: Sequence[str | Mapping[str, Any]]) -> str:
    return "+".join(entry if isinstance(entry, str) else str(entry["name"]) for entry in method) or "fedavg"


def _tuned(spec: StudyFile, where: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(partition, method) -> what was tuned for it; empty where the study says nothing of that."""
    if spec.tuned is None:
        return {}
    try:
        return read_choices(Path(where).parent / os.path.expanduser(spec.tuned))
    except MedflError as error:
        raise MedflError(f"{where}: {error}") from None


def _resolve(spec: StudyFile, base: Path | Mapping[str, Any], overrides: list[str], where: str) -> StudyPlan:
    runs, tuned = [], _tuned(spec, where)
    keys = {key for setting in tuned.values() for key in setting}
    for partition, changes in (spec.partitions or {PLAIN: {}}).items():
        for seed in spec.seeds:
            for name, arm in spec.arms().items():
                if seed not in spec.seeds[: arm.federations]:
                    continue
                as_method = arm.tuned_as or name
                if (partition, as_method) not in tuned and not keys <= arm.set.keys():
                    raise MedflError(
                        f"{where}: `tuned`: {spec.tuned} has no row for {as_method} on {partition}; tune it, or state "
                        f"`set` (or `tuned_as`) for the method {name}"
                    )
                own = {
                    **changes,
                    **tuned.get((partition, as_method), {}),
                    **arm.set,
                    "method": arm.method,
                    "baseline": arm.baseline,
                    "seed": seed,
                    "registry": None,
                }
                settings = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in own.items())]
                try:
                    pipeline = load_pipeline(base, settings)
                except MedflError as error:
                    raise MedflError(f"{where}: partition {partition}, method {name}: {error}") from None
                for fold, folded in _folds(pipeline, where) if spec.leave_one_site_out else [("", pipeline)]:
                    runs.append(Planned(partition, name, seed, fold, folded, content_key(folded)))
    return StudyPlan(spec, tuple(runs))


def _folds(pipeline: config.Pipeline, where: str) -> list[tuple[str, config.Pipeline]]:
    """Every training site in turn as the only held-out one. Sites held out by the file stay untouched."""
    sites = pipeline.train_sites
    if len(sites) < 3:
        raise MedflError(
            f"{where}: leaving one site out needs 3 training sites, so that two are left to train together, and this "
            f"pipeline has {len(sites)}; add sites under `sites.train`"
            + ("; held-out sites stay where they are, so move one there" if pipeline.held_out_sites else "")
        )
    folds = []
    for unseen in sites:
        seen = [site for site in sites if site is not unseen]
        split = pipeline.sites.model_copy(
            update={"train": seen, "held_out": [unseen.model_copy(update={"role": "held_out"})]}
        )
        folds.append((unseen.name, pipeline.model_copy(update={"sites": split})))
    return folds
