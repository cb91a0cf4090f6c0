"""A pipeline file that begins with another one: `extends: base.yaml`.

A mapping is merged key by key; anything else (a list, a number, a text) replaces what the base says, and null takes the
base's key away. A base may extend a further one. A relative path is relative to the file that it stands in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl.config.resolved import rename_old_keys
from medfl.config.yaml_file import read_mapping
from medfl.errors import MedflError

EXTENDS = "extends"


@dataclass(frozen=True)
class PipelineText:
    """What a pipeline file says together with its bases.

    Attributes:
        raw: keys and values; paths that stand in bases are absolute.
        notices: a sentence for the user about each key in an old spelling.
        bases: the files that it extends, the nearest first.
    """

    raw: dict[str, Any]
    notices: tuple[str, ...]
    bases: tuple[Path, ...]


def read_with_bases(file: Path, content: dict[str, Any] | None = None, above: Sequence[Path] = ()) -> PipelineText:
    """A pipeline file, its bases merged in.

    Args:
        file: as the user names it.
        content: what it says, where it is no file that can be read.
        above: the files that led here by `extends`.

    Raises:
        MedflError: a file that cannot be read; `extends` that names no file, or leads back to a file before it.
    """
    here = Path(os.path.realpath(file))  # a link that leads round is no error yet
    if here in above:
        way = " extends ".join(str(path) for path in (*above[above.index(here) :], here))
        raise MedflError(f"{above[-1]}: `extends` leads round in a circle ({way}); remove one of them")
    raw = read_mapping(file, "pipeline") if content is None else content
    notices = rename_old_keys(raw, file)
    if EXTENDS not in raw:
        return PipelineText(raw, notices, ())
    named = raw.pop(EXTENDS)
    if not isinstance(named, str) or not named:
        raise MedflError(f"{file}: `extends` names one pipeline file (here: {named!r}); write extends: base.yaml")
    base_file = here.parent / os.path.expanduser(named)
    try:
        base = read_with_bases(base_file, above=(*above, here))
    except MedflError as error:
        if str(error).startswith("There is no pipeline file"):
            raise MedflError(f"{file}: `extends`: {str(error)[0].lower()}{str(error)[1:]}") from None
        raise
    where = base_file.resolve()
    anchor(base.raw, where.parent)
    return PipelineText(merged(base.raw, raw), base.notices + notices, (where, *base.bases))


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`: mappings key by key, anything else replaced, null taking a key away."""
    result = dict(base)
    for key, value in own.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def anchor(raw: Mapping[str, Any], base: Path) -> None:
    """Make the relative paths of a pipeline absolute, in place; those of site files that it names too."""
    for key in ("root", "source_groups", "cache"):
        _anchor(raw.get("data"), key, base)
    _anchor_tables(raw.get("data"), base)
    model = raw.get("model")
    _anchor_weights(model, base)
    _anchor_weights(model.get("encoder") if isinstance(model, dict) else None, base)
    sites = raw.get("sites")
    for role in ("train", "held_out"):
        entries = sites.get(role) if isinstance(sites, dict) else None
        if not isinstance(entries, list):
            continue
        for index, entry in enumerate(entries):
            if isinstance(entry, str):
                entries[index] = str(base / os.path.expanduser(entry))
            elif isinstance(entry, dict):
                anchor_site(entry, base)


def anchor_site(raw: Mapping[str, Any], base: Path) -> None:
    """Make the relative paths of a site absolute, in place."""
    for key in ("root", "source_groups"):
        _anchor(raw.get("data"), key, base)
    _anchor_tables(raw.get("data"), base)


def _anchor_tables(data: Any, base: Path) -> None:
    """Make the paths in `data.features` absolute."""
    for key in ("table", "slide_table"):
        _anchor(data.get("features") if isinstance(data, dict) else None, key, base)


def _anchor(section: Any, key: str, base: Path) -> None:
    """Make a relative path of a section absolute, leaving the words that are no paths alone."""
    if isinstance(section, dict) and isinstance(section.get(key), str) and section[key] not in ("ignore", "filename"):
        section[key] = str(base / os.path.expanduser(section[key]))


def _anchor_weights(section: Any, base: Path) -> None:
    """Make the path in `model.weights` absolute, if it is one."""
    weights = section.get("weights") if isinstance(section, dict) else None
    if not isinstance(weights, str) or weights in ("", "random", "pretrained", "package"):
        return
    if weights.startswith(("hf-hub:", "models:/", "runs:/")):
        return
    kind = "local-dir:" if weights.startswith("local-dir:") else ""
    section["weights"] = f"{kind}{base / Path(weights.removeprefix(kind)).expanduser()}"
