"""YAML files of keys and values: read without surprises, checked against a section of `medfl.config`.

Whatever is wrong in a file is said in one clear sentence that names file, key and value.
"""

from __future__ import annotations

import copy
import datetime
import functools
import re
import types
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from medfl.config.fields import NAME_PATTERN
from medfl.config.regular_file import open_regular
from medfl.config.spelling import show
from medfl.errors import MedflError, nearest

MAX_BYTES = 2_000_000
BROKEN = (yaml.YAMLError, ValueError, TypeError, RecursionError)  # dates, keys and depths that are none
BRANCHES = (
    "str",
    "SiteConfig",
    "StainProfile",
    "Selection",
    "InputNormalisation",
    "TrainedPart",
    "CalibrationFit",
)
LONGEST = 100  # characters of a value that a message shows
M = TypeVar("M", bound=BaseModel)


def read_mapping(file: Path, kind: str) -> dict[str, Any]:
    """The keys and values of a YAML file, as they are written; `kind` ("pipeline", "site") is what it should be.

    Raises:
        MedflError: no such file, too large, not valid YAML, no mapping.
    """
    try:
        with open_regular(file) as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise MedflError(
                f"{file} is larger than {MAX_BYTES // 1_000_000} MB, the most a {kind} file may have; shorten it"
            )
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        beside = [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise MedflError(f"There is no {kind} file {file}.{nearest(file.name, beside)}") from None
    except OSError as error:
        raise MedflError(f"{file} cannot be read: {error.strerror}; name a {kind} file (YAML)") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MedflError(f"{file}, line {line}: cannot be read as UTF-8; save the {kind} file as UTF-8 text") from None
    try:
        raw = copy.deepcopy(parse(text))
    except BROKEN as error:
        raise MedflError(f"{file}{_broken(error)}") from None
    if not isinstance(raw, dict):
        raise MedflError(f"{file}: a {kind} file is a mapping of keys to values, this is {type(raw).__name__}")
    return raw


def _broken(error: Exception) -> str:
    """Where and why a text is no YAML, in one line."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    deep = isinstance(error, RecursionError)
    problem = "nested too deeply" if deep else getattr(error, "problem", None) or str(error)
    return f"{where}: not valid YAML: {show(' '.join(problem.split()))}"


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Any:
    """The value of a YAML text, shared between calls: a study reads the same few files, and sets the same few keys, for
    every one of its runs. Raises one of `BROKEN`."""
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, which YAML would silently let win, aliases, which can explode, and tags,
    which say that a text is what it is not."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not used in these files"
        elif getattr(event, "tag", None):
            problem = "tags (!name) are not used in these files; write the value without, a text in quotes"
        else:
            return super().compose_node(parent, index)
        raise yaml.composer.ComposerError(None, None, problem, event.start_mark)

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
        # A union reports every branch; the deepest error, or a section's own rule, is about what the user wrote.
        rank = lambda e: (e["type"] == "extra_forbidden", len(e["loc"]), e["type"] == "value_error")  # noqa: E731
        worst = max(error.errors(include_url=False), key=rank)
        raise MedflError(f"{file}: {_sentence(model, worst)}") from None


def _sentence(model: type[BaseModel], error: Any) -> str:
    """What one of pydantic's errors says, in the words of these files."""
    *above, last = error["loc"] or ("",)
    loc = [part for part in above if not _is_branch(part)]
    if error["type"] == "extra_forbidden":
        keys = _fields(model, loc)
        allowed = f" Allowed here: {', '.join(sorted(keys))}." if keys else ""
        return f"`{_dotted([*loc, last])}` is not a key of this file.{nearest(str(last)[:LONGEST], keys)}{allowed}"
    key = _dotted([*loc, *(() if _is_branch(last) else (last,))])
    if error["type"] == "missing":
        return f"the key `{key}` is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = show(message[:1].lower() + message[1:])
    value = error.get("input")
    if isinstance(value, dict | BaseModel):
        shown = ""
    else:
        shown = f" (here: {value!r})" if len(repr(value)) <= LONGEST else f" (here: {repr(value)[:LONGEST]}...)"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        keys = _fields(model, [*loc, last])
        return f"`{key}`: a section belongs here{shown}, `{key}: {{...}}`" + (
            f" with keys of {', '.join(sorted(keys))}" if keys else ""
        )
    if error["type"] == "list_type":
        return f"`{key}`: a list belongs here{shown}, `{key}: [...]`"
    if error["type"] in ("string_type", "invalid_key") and (word := _read_as(last if not shown else value)):
        return f"`{key}`: {message}{shown}; {word}"
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
        rule = "a name has small letters, digits and hyphens, at most 63, no hyphen first"
        return f"`{key}`: {rule}{shown}{_near_name(value)}"
    allowed = error.get("ctx", {}).get("expected", "")
    words = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")]
    close = nearest(value[:LONGEST], words) if isinstance(value, str) else ""
    return f"`{key}`: {message}{shown}.{close}" if key else f"{message}{shown}"


def _read_as(value: Any) -> str:
    """The remedy where YAML takes for something else what is meant as a text."""
    if isinstance(value, bool):
        return 'YAML reads yes, no, on and off as true and false; put the word into quotes, "no"'
    if value is None:
        return 'YAML reads null, ~ and an empty value as nothing; put the word into quotes, "null"'
    if isinstance(value, int | float | datetime.date):
        return f'YAML reads it as a number or a date; put it into quotes, "{str(value)[:LONGEST]}"'
    return ""


def _near_name(value: str) -> str:
    """The name near a text that follows the rule of names, as a remedy."""
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode().lower()
    near = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63]
    return f"; write {near}" if near else ""


def _dotted(loc: Iterable[Any]) -> str:
    return ".".join(show(str(part))[:LONGEST] for part in loc)


def _is_branch(part: Any) -> bool:
    """Whether a location part is pydantic's name of a union branch and not a key of the file."""
    return isinstance(part, str) and (part in BRANCHES or "[" in part)


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
