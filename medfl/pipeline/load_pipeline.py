"""Reads pipeline and site files into `medfl.config`, with one clear sentence for whatever is wrong in them."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from medfl.config import Pipeline, SiteConfig
from medfl.data.sources.source_registry import check_sources
from medfl.errors import MedflError, nearest

if TYPE_CHECKING:
    from medfl.methods.core.chain import MethodChain

MAX_BYTES = 2_000_000
BROKEN = (yaml.YAMLError, ValueError, TypeError, RecursionError)  # dates, keys and depths that are none
M = TypeVar("M", bound=BaseModel)


def load_pipeline(path: Path | str, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline file, apply `key.sub=value` overrides, inline its site files, make every path absolute.

    Raises:
        MedflError: file missing, broken YAML, unknown key (nearest valid one shown), value out of range, duplicate
            site names, a held-out site in training.
    """
    file = Path(path)
    raw = read_mapping(file, "pipeline")
    for override in overrides:
        _apply(raw, override)
    base = file.resolve().parent
    for key in ("root", "source_groups", "cache"):
        _anchor(raw.get("data"), key, base)
    _anchor(raw.get("model"), "checkpoint", base)
    sites = raw.get("sites")
    if isinstance(sites, list):
        raise MedflError(f"{file}: `sites` must be a mapping with `train` and `held_out` lists, or `generate`")
    if isinstance(sites, dict):
        for role in ("train", "held_out"):
            if isinstance(sites.get(role), list):
                sites[role] = [_site_mapping(entry, role, base, file) for entry in sites[role]]
    pipeline = validate(Pipeline, raw, file)
    if pipeline.sites.generate:
        from medfl.data.synthetic.sites import generate_sites

        train, held_out = generate_sites(pipeline.sites.generate, pipeline.task.classes, pipeline.seed)
        pipeline = pipeline.model_copy(
            update={"sites": pipeline.sites.model_copy(update={"train": train, "held_out": held_out, "generate": None})}
        )
    check_sources(pipeline, str(file))
    _check_sites(pipeline, file)
    if pipeline.method or pipeline.training.clock == "wall":
        check_method(pipeline, str(file))
    return pipeline


def check_method(pipeline: Pipeline, where: str) -> MethodChain:
    """The chain of a pipeline's `method`, if the pipeline has what it needs.

    Raises:
        MedflError: a wrong chain (see `build_chain`), a missing `link`, keys that an arm or a schedule cannot serve.
    """
    from medfl.methods.core.chain import build_chain
    from medfl.methods.differential_privacy import private_link

    sites, training = pipeline.train_sites, pipeline.training
    try:
        chain = build_chain(pipeline.method)
        waits = chain.async_schedule(training.sites_per_round or len(sites)) is not None
    except MedflError as error:
        raise MedflError(f"{where}: {error}") from None
    wall = training.clock == "wall"
    if waits and not wall:
        for site in sites:
            if site.link is None:
                raise MedflError(
                    f"{where}: site {site.name} has no `link`, which the virtual clock of {chain} needs; add "
                    f"`link: {{down: 50, up: 10, seconds_per_step: 0.1}}` (Mbit/s, seconds) to its site file"
                )
    if private_link(chain) and pipeline.select != "last":
        raise MedflError(
            f"{where}: `select` picks a model by validation figures, which {chain} does not protect; leave it at last"
        )
    if wall and pipeline.select != "last":
        raise MedflError(
            f"{where}: `select` compares rounds by figures of all sites, and with `training.clock: wall` sites at work "
            f"are not measured; leave it at last"
        )
    alone = chain.arm == "local_only"
    refusals = {
        "`training.sites_per_round` draws sites for a round": training.sites_per_round and chain.arm == "centralised",
        "`registry` takes one global model": alone and pipeline.registry,
        "`select` picks one global model": alone and pipeline.select != "last",
        "`training.clock: wall` is for sites that do not wait for each other": wall and not waits,
    }
    for what, refused in refusals.items():
        if refused:
            raise MedflError(f"{where}: {what}, which {chain} does not have; remove the key or choose another method")
    return chain


def load_site(path: Path | str) -> SiteConfig:
    """Read one site file; its relative data root becomes absolute. Raises MedflError as `load_pipeline` does."""
    file = Path(path)
    raw = read_mapping(file, "site")
    _anchor_site(raw, file.resolve().parent)
    return validate(SiteConfig, raw, file)


def dump_pipeline(pipeline: Pipeline) -> str:
    """The resolved pipeline as YAML; `load_pipeline` reads it back to an equal value."""
    return yaml.safe_dump(pipeline.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def read_mapping(file: Path, kind: str) -> dict[str, Any]:
    if file.is_dir():
        raise MedflError(f"{file} is a folder; name a {kind} file (YAML)")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise MedflError(
                f"{file} is larger than {MAX_BYTES // 1_000_000} MB, the most a {kind} file may have; shorten it"
            )
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise MedflError(f"There is no {kind} file {file}.{nearest(file.name, beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MedflError(f"{file} cannot be read: {error}") from None
    try:
        raw = copy.deepcopy(_parsed(text))
    except BROKEN as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        deep = isinstance(error, RecursionError)
        problem = "nested too deeply" if deep else getattr(error, "problem", None) or str(error)
        raise MedflError(f"{file}{where}: not valid YAML: {problem}") from None
    if not isinstance(raw, dict):
        raise MedflError(f"{file}: a {kind} file is a mapping of keys to values, this is {type(raw).__name__}")
    return raw


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """A study reads the same few files, and sets the same few keys, for every one of its runs."""
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, which YAML would silently let win, and aliases, which can explode."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not used in these files", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key of the raw mapping: `training.rounds=3`, `registry=null`, `method=[ecgr]`."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise MedflError(f"--set {override}: write --set key.sub=value, for example --set training.rounds=3")
    try:
        value = copy.deepcopy(_parsed(text))
    except BROKEN:
        raise MedflError(f"--set {override}: the value is not valid YAML") from None
    target: Any = raw
    *parents, last = key.strip().split(".")
    for part in parents:
        if isinstance(target, dict):
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        elif isinstance(target, list) and part.isdigit() and int(part) < len(target):
            target = target[int(part)]
        else:
            raise MedflError(f"--set {override}: `{part}` is not inside a mapping")
    if isinstance(target, list) and last.isdigit() and int(last) < len(target):
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise MedflError(f"--set {override}: `{'.'.join(parents)}` is not a mapping, so it has no key `{last}`")


def _anchor(section: Any, key: str, base: Path) -> None:
    """Make a relative path of a section absolute, leaving the words that are no paths alone."""
    if isinstance(section, dict) and isinstance(section.get(key), str) and section[key] not in ("ignore", "filename"):
        section[key] = str(base / Path(section[key]).expanduser())


def _anchor_site(raw: dict[str, Any], base: Path) -> None:
    for key in ("root", "source_groups"):
        _anchor(raw.get("data"), key, base)


def _site_mapping(entry: Any, role: str, base: Path, file: Path) -> Any:
    """A site entry of a pipeline as a mapping with its role filled in."""
    if isinstance(entry, str):
        path = base / Path(entry).expanduser()
        raw = load_site(path).model_dump(mode="json", exclude_none=True)
        where = str(path)
    elif isinstance(entry, dict):
        raw, where = dict(entry), str(file)
        _anchor_site(raw, base)
    else:
        return entry
    stated = raw.get("role")
    if stated is not None and stated != role:
        verb = "trains" if role == "train" else "is measured as held-out"
        raise MedflError(
            f"{where}: site {raw.get('name')} has `role: {stated}` but {file} lists it under `sites.{role}`, so it "
            f"{verb}; move it in the pipeline or change its role"
        )
    raw["role"] = role
    return raw


def _check_sites(pipeline: Pipeline, file: Path) -> None:
    seen: set[str] = set()
    for site in pipeline.all_sites:
        if site.name in seen:
            raise MedflError(f"{file}: two sites are named {site.name}; names must be unique, also across roles")
        seen.add(site.name)
        classes = pipeline.task.classes
        for key, names in (("class_mix", list(site.class_mix or {})), ("labels", list(site.labels.values()))):
            for name in names:
                if name not in classes:
                    raise MedflError(
                        f"{file}: site {site.name}, `{key}` names the class {name}, which is not in `task.classes` "
                        f"({', '.join(classes)}).{nearest(name, classes)}"
                    )
        if pipeline.data.mode == "own" and (site.class_mix or site.patches):
            key = "class_mix" if site.class_mix else "patches"
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


def validate(model: type[M], raw: dict[str, Any], file: Path) -> M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)
        # A union reports every branch; the deepest error is the one about what the user wrote.
        worst = max(first, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
        raise MedflError(f"{file}: {_sentence(model, worst, raw)}") from None


def _sentence(model: type[BaseModel], error: Any, raw: Any) -> str:
    loc = [part for part in error["loc"] if not _is_branch(part)]
    key = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        known = _fields(model, loc[:-1])
        allowed = f" Allowed here: {', '.join(sorted(known))}." if known else ""
        return f"`{key}` is not a key of this file.{nearest(str(loc[-1]), known)}{allowed}"
    if error["type"] == "missing":
        return f"the key `{key}` is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    value = error.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f" (here: {value!r})"
    allowed = error.get("ctx", {}).get("expected", "")
    close = (
        nearest(value, [w.strip(" '") for w in allowed.replace(" or ", ",").split(",")])
        if isinstance(value, str)
        else ""
    )
    return f"`{key}`: {message}{shown}.{close}" if key else f"{message}{shown}"


def _is_branch(part: Any) -> bool:
    """Whether a location part is pydantic's name of a union branch and not a key of the file."""
    return isinstance(part, str) and (part in ("str", "SiteConfig", "StainProfile", "Selection") or "[" in part)


def _fields(model: type[BaseModel], loc: Iterable[Any]) -> list[str]:
    """The keys allowed in the section at `loc`."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            return []
        current = _section_type(current.model_fields[part].annotation)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _section_type(annotation: Any) -> Any:
    """The section class inside an annotation such as `list[str | Site]` or `Registry | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list, Annotated):
        for argument in get_args(annotation):
            found = _section_type(argument)
            if found is not None:
                return found
    return None
