"""A model.json as it is read back: each part of the kind that whoever rebuilds or feeds the model relies on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from medfl.config import ConfigSection, TileEncoder, TileSettings
from medfl.config.model_config import Pooling
from medfl.data.normalise import FIXED, method_of, statistics_of
from medfl.errors import MedflError
from medfl.metrics.class_prior import proper_mix
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.remedies import steps_of
from medfl.runs.records import read_json

NAMES = ("run", "backbone", "fingerprint")
LISTS = {"classes": str, "mean": float, "std": float}


def read_model_facts(path: Path) -> dict[str, Any]:
    """A model.json. Raises MedflError where it does not say what model it is."""
    facts = read_json(path)
    wrong = [name for name in NAMES if not isinstance(facts.get(name), str)]
    wrong += [name for name, kind in LISTS.items() if not _filled(facts.get(name), kind)]
    wrong += ["args"] if not isinstance(facts.get("args"), dict) else []
    wrong += ["size"] if type(facts.get("size")) is not int or facts["size"] < 1 else []
    wrong += ["temperature"] if not _positive(facts.get("temperature")) else []
    wrong += ["calibration"] if not _vector(facts) else []
    thresholds = facts.get("thresholds") or {}
    if not isinstance(thresholds, dict) or not _numbers(thresholds):
        wrong.append("thresholds")
    by_unit = facts.get("unit_thresholds") or {}
    if not isinstance(by_unit, dict) or not all(isinstance(own, dict) and _numbers(own) for own in by_unit.values()):
        wrong.append("unit_thresholds")
    wrong += [] if facts.get("patients", "mean") == "mean" or unit_top(facts) else ["patients"]
    wrong += [] if _transforms(facts.get("render", [])) else ["render"]
    if not isinstance(facts.get("malignant") or [], list) or not isinstance(facts.get("versions") or {}, dict):
        wrong.append("malignant` or `versions")
    wrong += [] if facts.get("train", "all") in ("all", "head") or _part(facts["train"]) else ["train"]
    wrong += [] if facts.get("pooling") in (None, *get_args(Pooling)) else ["pooling"]
    wrong += _wrong_adaptation(facts)
    wrong += [] if _section(TileSettings, facts.get("tile")) else ["tile"]
    wrong += [] if _section(TileEncoder, facts.get("encoder"), "name") else ["encoder"]
    wrong += [] if facts.get("jpeg") is None or _count(facts["jpeg"]) else ["jpeg"]
    wrong += [] if facts.get("hidden") is None or _count(facts["hidden"]) else ["hidden"]
    wrong += [] if _normalisation(facts.get("normalise")) else ["normalise"]
    if wrong:
        raise MedflError(f"{path} does not say what model this is (`{wrong[0]}`); take the file of the run")
    return facts


def unit_top(facts: Mapping[str, Any]) -> int:
    """How many patches stand for a slide or patient (`medfl.metrics.units`); 0 for all, as in a file that does not
    say."""
    rule = facts.get("patients")
    top = rule.get("top") if isinstance(rule, dict) else None
    return int(top) if top is not None and _count(top) else 0


def model_rendering(facts: Mapping[str, Any], pipeline: Mapping[str, Any] | None) -> list[Any]:
    """The transforms that a model's patches go through before it sees them: `data.render` of its run. A model.json of
    an earlier medfl does not say; its run's resolved pipeline does, where that is known."""
    if "render" in facts:
        return list(facts["render"])
    return list(((pipeline or {}).get("data") or {}).get("render") or [])


def stored_as(facts: Mapping[str, Any]) -> str:
    """ ", kept as JPEGs of quality 95" or the like, for a model whose patches in training and measurement were; else
    ""."""
    return f", kept as JPEGs of quality {facts['jpeg']}" if facts.get("jpeg") else ""


def model_stain(facts: Mapping[str, Any]) -> list[float]:
    """Numbers of the stain that a model's patches are brought to (`medfl.data.normalise`); none where they stay."""
    return list((facts.get("normalise") or {}).get("reference") or [])


def stain_sentences(pipeline: Mapping[str, Any]) -> Iterator[str]:
    """What a run does to stains, and what leaves sites for it, for people; of a resolved pipeline's plain values."""
    normalise = pipeline["data"].get("normalise")
    augment = pipeline["training"].get("augment") or {}
    if normalise:
        method, federated = normalise["method"], normalise["reference"] == "federated"
        whose = "the mean of the training sites' own" if federated else "a fixed one"
        leaving = f"; for it {len(FIXED[method].numbers)} numbers leave each training site" if federated else ""
        yield f"Stain: each site's patches are normalised from its own stain ({method}) to {whose}{leaving}."
    if augment.get("stain"):
        yield f"Stain: a training patch is seen as a random laboratory of strength {augment['stain']:g} would show it."
    if augment.get("exchange"):
        yield (
            f"Stain: {augment['exchange']:.0%} of a site's training patches get dyes of other sites; for it 27 numbers "
            f"leave each training site and reach the others."
        )


def transform_names(render: Iterable[Any]) -> list[str]:
    """The names of transforms as a pipeline states them: by name, or `{Name: {argument: value}}`."""
    return [entry if isinstance(entry, str) else next(iter(entry), "") for entry in render]


def _transforms(value: Any) -> bool:
    """Whether a value is a list of transforms as a pipeline states them."""
    return isinstance(value, list) and all(
        isinstance(entry, str) or (isinstance(entry, dict) and all(isinstance(part, dict) for part in entry.values()))
        for entry in value
    )


def _wrong_adaptation(facts: Mapping[str, Any]) -> list[str]:
    """Which of the entries that adaptation reads cannot be, by name."""
    mix, noted, wrong = facts.get("training_mix"), facts.get("adaptation"), []
    try:
        if mix is not None and len(proper_mix(mix)) != len(facts["classes"]):
            wrong.append("training_mix")
    except (TypeError, ValueError):
        wrong.append("training_mix")
    try:
        if noted is not None:
            steps_of(noted["remedy"])
            if not _positive(noted.get("temperature")):
                raise ValueError("no temperature")
            _ = statistics_of(noted["reference"]) if noted.get("reference") else None
    except (KeyError, TypeError, ValueError, AttributeError):
        wrong.append("adaptation")
    return wrong


def _section(kind: type[ConfigSection], value: Any, *further: str) -> bool:
    """Whether a value is a section of a pipeline with these texts besides, or nothing."""
    if value is None:
        return True
    try:
        kind.model_validate({key: part for key, part in value.items() if key not in further})
    except (AttributeError, TypeError, ValueError):
        return False
    return all(isinstance(value.get(key), str) for key in further)


def _normalisation(value: Any) -> bool:
    """Whether a value is a method of stain normalisation and its reference, or nothing."""
    if value is None:
        return True
    try:
        return bool(method_of(statistics_of(value["reference"])) == value["method"])
    except (LookupError, TypeError, ValueError):
        return False


def _filled(value: Any, kind: type) -> bool:
    """Whether a value is a list of a kind, and not empty."""
    allowed = (float, int) if kind is float else kind
    return isinstance(value, list) and bool(value) and all(isinstance(item, allowed) for item in value)


def _part(value: Any) -> bool:
    """Whether a value says how many last blocks trained, or what was adapted."""
    lora = value.get("lora") if isinstance(value, dict) else None
    if not isinstance(lora, dict):
        return isinstance(value, dict) and _count(value.get("blocks"))
    return _count(lora.get("rank")) and _positive(lora.get("alpha", "")) and _filled(lora.get("targets"), str)


def _vector(facts: Mapping[str, Any]) -> bool:
    """Whether what is said of scales and biases, if anything, is one of each for every class."""
    if (vector := facts.get("calibration")) is None:
        return True
    classes = len(facts["classes"]) if isinstance(facts.get("classes"), list) else 0
    try:
        return isinstance(vector, dict) and len(Calibration.of(facts).scale) == classes
    except ValueError:
        return False


def _numbers(values: Mapping[str, Any]) -> bool:
    return all(isinstance(value, float | int) for value in values.values())


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _positive(value: Any) -> bool:
    return value is None or (isinstance(value, float | int) and 0 < value < float("inf"))
