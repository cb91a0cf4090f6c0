"""Reads pipeline and site files into `medfl.config`: overrides, sites inlined, paths absolute, rules across sections.

Every rule that can be checked without looking at data or building a model is checked here, once.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medfl.config import Pipeline, SiteConfig
from medfl.config.resolved import rename_old_keys
from medfl.config.spelling import spelt_alike
from medfl.config.yaml_file import BROKEN, parse, read_mapping, validate
from medfl.data.sources.source_registry import check_sources
from medfl.errors import MedflError, nearest
from medfl.pipeline.base_file import anchor, anchor_site, read_with_bases
from medfl.pipeline.plan_checks import check_end
from medfl.runs.records import ROUNDS
from medfl.runs.redact import without_credentials


def load_pipeline(path: Path | str | Mapping[str, Any], overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline file over those it extends, apply `key.sub=value` overrides, inline its site files, make every
    path absolute. A mapping stands for such a file in the working directory.

    Raises:
        MedflError: file missing, broken YAML, unknown key (nearest valid one shown), value out of range, duplicate
            site names, a held-out site in training; an end that could not be carried out (see `check_end`).
    """
    file = Path("pipeline") if isinstance(path, Mapping) else Path(path)
    text = read_with_bases(file, plain_mapping(path, "pipeline") if isinstance(path, Mapping) else None)
    raw = text.raw
    for override in overrides:
        apply_override(raw, override)
    notices = text.notices + rename_old_keys(raw, file)
    anchor(raw, file.resolve().parent)
    sites = raw.get("sites")
    if isinstance(sites, list):
        raise MedflError(f"{file}: `sites` must be a mapping with `train` and `held_out` lists, or `generate`")
    if isinstance(sites, dict):
        for role in ("train", "held_out"):
            if isinstance(sites.get(role), list):
                sites[role] = [_site_mapping(entry, role, file) for entry in sites[role]]
    try:
        pipeline = validate(Pipeline, raw, file)
    except MedflError as error:
        if not text.bases:
            raise
        raise MedflError(
            f"{error} (the key may stand in {', '.join(map(str, text.bases))}, which it extends)"
        ) from None
    if pipeline.sites.generate:
        from medfl.data.synthetic.sites import generate_sites

        train, held_out = generate_sites(pipeline.sites.generate, pipeline.task.classes, pipeline.seed)
        pipeline = pipeline.model_copy(
            update={"sites": pipeline.sites.model_copy(update={"train": train, "held_out": held_out, "generate": None})}
        )
    check_sources(pipeline, str(file))
    _check_sites(pipeline, file)
    if not (file.parent / ROUNDS).is_file():  # what a run began with stands as it is
        check_end(pipeline, str(file))
    if _method_matters(pipeline):
        from medfl.pipeline.method_requirements import check_method, with_noise  # brings torch in

        check_method(pipeline, str(file))
        pipeline = with_noise(pipeline, str(file))
    return pipeline.with_notices(notices)


def plain_mapping(given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy of a mapping as YAML could hold it; paths become text. Raises MedflError for other objects."""
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(given), default=_plain_value))
    except (TypeError, ValueError) as error:
        raise MedflError(f"the {what} is no plain mapping: {error}") from None
    return copied


def _plain_value(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", 1) == 0:  # a number of NumPy
        return value.item()
    raise TypeError(f"{type(value).__name__} is neither text, number, list nor mapping")


def _method_matters(pipeline: Pipeline) -> bool:
    """Whether there is anything to check about the method: not for plain FedAvg."""
    training = pipeline.training
    private = training.secure_aggregation or training.dp_sgd
    changed = training.clock == "wall" or training.buffers == "local"
    return bool(pipeline.method or pipeline.baseline or private) or changed


def load_site(path: Path | str) -> SiteConfig:
    """Read one site file; its relative data root becomes absolute. Raises MedflError as `load_pipeline` does."""
    file = Path(path)
    raw = read_mapping(file, "site")
    anchor_site(raw, file.resolve().parent)
    return validate(SiteConfig, raw, file)


def dump_pipeline(pipeline: Pipeline) -> str:
    """The resolved pipeline as YAML; `load_pipeline` reads it back to an equal value, without notices, and without the
    user and password of `tracking.uri`, which are written nowhere."""
    if pipeline.tracking.uri is not None and not pipeline.tracking.uri.startswith("sqlite:"):
        kept = pipeline.tracking.model_copy(update={"uri": without_credentials(pipeline.tracking.uri)})
        pipeline = pipeline.model_copy(update={"tracking": kept})
    return yaml.safe_dump(pipeline.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key of the raw mapping: `training.rounds=3`, `registry=null`, `method=[ecgr]`."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise MedflError(f"--set {override}: write --set key.sub=value, for example --set training.rounds=3")
    try:
        value = copy.deepcopy(parse(text))
    except BROKEN:
        raise MedflError(f"--set {override}: the value is not valid YAML") from None
    target: Any = raw
    *parents, last = key.strip().split(".")
    for part in parents:
        if isinstance(target, dict):
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        elif isinstance(target, list) and part.isdecimal() and int(part) < len(target):
            target = target[int(part)]
        else:
            raise MedflError(f"--set {override}: `{part}` is not inside a mapping")
    if isinstance(target, list) and last.isdecimal() and int(last) < len(target):
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise MedflError(f"--set {override}: `{'.'.join(parents)}` is not a mapping, so it has no key `{last}`")


def _site_mapping(entry: Any, role: str, file: Path) -> Any:
    """A site entry of a pipeline as a mapping with its role filled in."""
    if isinstance(entry, str):
        raw = load_site(entry).model_dump(mode="json", exclude_none=True)
        where = entry
    elif isinstance(entry, dict):
        raw, where = dict(entry), str(file)
    else:
        return entry
    own_role = raw.get("role")
    if own_role is not None and own_role != role:
        verb = "trains" if role == "train" else "is measured as held-out"
        raise MedflError(
            f"{where}: site {raw.get('name')} has `role: {own_role}` but {file} lists it under `sites.{role}`, so it "
            f"{verb}; move it in the pipeline or change its role"
        )
    raw["role"] = role
    return raw


def _check_sites(pipeline: Pipeline, file: Path) -> None:
    for one, other in spelt_alike(site.name for site in pipeline.all_sites):
        raise MedflError(f"{file}: the sites {one} and {other} differ in spelling only; rename one of them")
    seen: set[str] = set()
    for site in pipeline.all_sites:
        if site.name in seen:
            raise MedflError(f"{file}: two sites are named {site.name}; names must be unique, also across roles")
        seen.add(site.name)
        classes = pipeline.task.classes
        for key, names in (("class_mix", site.class_mix or {}), ("labels", filter(None, site.labels.values()))):
            for name in names:
                if name not in classes:
                    raise MedflError(
                        f"{file}: site {site.name}, `{key}` names the class {name}, which is not in `task.classes` "
                        f"({', '.join(classes)}).{nearest(name, classes)}"
                    )
        dealt_mix = site.class_mix if site.role == "train" else None  # elsewhere it is what the registry says
        if pipeline.data.mode == "own" and (dealt_mix or site.patches):
            key = "class_mix" if dealt_mix else "patches"
            raise MedflError(
                f"{file}: site {site.name} states `{key}`, which only `data.mode: dealt` uses; with `data.mode: own` "
                f"a site brings all of its data. Remove the key or change the mode"
            )
        if site.stain is not None:
            from medfl.data.stain import Stain, profile

            try:
                profile(site.stain) if isinstance(site.stain, str) else Stain(**site.stain.model_dump())
            except (MedflError, ValueError) as error:
                raise MedflError(f"{file}: site {site.name}, `stain`: {error}") from None
    per_round = pipeline.training.sites_per_round
    if per_round and per_round > len(pipeline.train_sites):
        raise MedflError(
            f"{file}: `training.sites_per_round` is {per_round}, above the {len(pipeline.train_sites)} training sites"
        )
