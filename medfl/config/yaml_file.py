"""YAML files of keys and values: read without surprises, checked against a section of `medfl.config`.

Whatever is wrong in a file is said in one clear sentence that names file, key and value.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from medfl.errors import MedflError, nearest

MAX_BYTES = 2_000_000
BROKEN = (yaml.YAMLError, ValueError, TypeError, RecursionError)  # dates, keys and depths that are none
M = TypeVar("M", bound=BaseModel)


def read_mapping(file: Path, kind: str) -> dict[str, Any]:
    """The keys and values of a YAML file, as they are written; `kind` ("pipeline", "site") is what it should be.

    Raises:
        MedflError: no such file, too large, not valid YAML, no mapping.
    """
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
        raw = copy.deepcopy(parse(text))
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
def parse(text: str) -> Any:
    """The value of a YAML text, shared between calls: a study reads the same few files, and sets the same few keys, for
    every one of its runs. Raises one of `BROKEN`."""
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


def validate(model: type[M], raw: dict[str, Any], file: Path) -> M:
    """A mapping as a section of `medfl.config`. Raises MedflError with one sentence about the first wrong key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        # A union reports every branch; the deepest error is the one about what the user wrote.
        worst = max(error.errors(include_url=False), key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
        raise MedflError(f"{file}: {_sentence(model, worst)}") from None


def _sentence(model: type[BaseModel], error: Any) -> str:
    """What one of pydantic's errors says, in the words of these files."""
    loc = [part for part in error["loc"] if not _is_branch(part)]
    key = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        keys = _fields(model, loc[:-1])
        allowed = f" Allowed here: {', '.join(sorted(keys))}." if keys else ""
        return f"`{key}` is not a key of this file.{nearest(str(loc[-1]), keys)}{allowed}"
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
    return isinstance(part, str) and (
        part in ("str", "SiteConfig", "StainProfile", "Selection", "InputNormalisation", "TrainedBlocks") or "[" in part
    )


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
            section = _section_type(argument)
            if section is not None:
                return section
    return None
