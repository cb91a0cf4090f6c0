"""The fields of each kind of message that are no vectors, and what the values of each must be.

Nothing that comes in is taken before its every field has passed its check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from medfl.messages import (
    AdaptRequest,
    EvaluateRequest,
    HistogramRequest,
    KeyRequest,
    MeasureRequest,
    Request,
    ScalingRequest,
    StainRequest,
    TemperatureRequest,
    TrainRequest,
    UnmaskRequest,
)

Fields = Mapping[str, Callable[[Any], bool]]
HEXADECIMAL, NAME = re.compile(r"[0-9a-f]{1,8192}"), re.compile(r"[a-z0-9_-]{1,64}")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _index(value: Any) -> bool:
    return value == -1 or _count(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(_number(item) for item in value)


def _maybe_number(value: Any) -> bool:
    return value is None or _number(value)


def _numbers_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(_number(item) for item in value.values())


def _maybe_numbers_by_name(value: Any) -> bool:
    return value is None or _numbers_by_name(value)


def _numbers_by_two_names(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_numbers_by_name, value.values()))


def _hexadecimal(value: Any) -> bool:
    """Keys, certificates, signatures and seeds by name."""
    return isinstance(value, dict) and all(
        isinstance(text, str) and HEXADECIMAL.fullmatch(text) and NAME.fullmatch(name) for name, text in value.items()
    )


def _hexadecimal_by_site(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_hexadecimal, value.values()))


def _by_split(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(figures, dict) for figures in value.values())


_MODEL: Fields = {
    "round": _count,
    "splits": _names,
    "last_accepted_round": _index,
    "stain_reference": _numbers,
}
_LABORATORIES: Fields = {"laboratories": _count, "stain_strength": _number}
_VECTOR: Fields = {"scale": _numbers, "bias": _numbers}
REQUESTS: Mapping[str, tuple[type[Request], Fields]] = {
    "train": (
        TrainRequest,
        {
            **_MODEL,
            "lr_scale": _number,
            "stain_others": _numbers,
            "mask_keys": _hexadecimal_by_site,
            "mask_tag": _text,
        },
    ),
    "key": (KeyRequest, _MODEL),
    "unmask": (UnmaskRequest, {**_MODEL, "tag": _text, "survivors": _names}),
    "evaluate": (EvaluateRequest, _MODEL),
    "stain": (StainRequest, {**_MODEL, "method": _text, "dyes": _truth}),
    "temperatures": (TemperatureRequest, {**_MODEL, "temperatures": _numbers, **_LABORATORIES}),
    "scaling": (ScalingRequest, {**_MODEL, "points": _numbers, **_LABORATORIES}),
    "histograms": (
        HistogramRequest,
        {**_MODEL, "temperature": _maybe_number, **_VECTOR, "malignant": _names, "top": _count},
    ),
    "measure": (
        MeasureRequest,
        {
            **_MODEL,
            "resamples": _count,
            "temperature": _number,
            **_VECTOR,
            "thresholds": _maybe_numbers_by_name,
            "malignant": _names,
            "members": _count,
            "monitoring": _truth,
            "top": _count,
            "unit_thresholds": _numbers_by_two_names,
        },
    ),
    "adapt": (
        AdaptRequest,
        {
            **_MODEL,
            "remedies": _names,
            "patches": _count,
            "training_mix": _numbers,
            "reference": _numbers,
            "laboratory": _number,
            "temperatures": _numbers,
            "resamples": _count,
            "temperature": _number,
            "scale": _numbers,
            "bias": _numbers,
            "thresholds": _maybe_numbers_by_name,
            "malignant": _names,
            "top": _count,
            "unit_thresholds": _numbers_by_two_names,
        },
    ),
}
"""Kind -> class and fields of the requests."""
REPLY: Fields = {
    "site": _text,
    "round": _count,
    "samples": _count,
    "steps": _count,
    "train_loss": _maybe_number,
    "fingerprint": _text,
    "metrics": _by_split,
    "sums": _by_split,
    "curves": _by_split,
    "seconds": _numbers_by_name,
    "masking": _hexadecimal,
}
FAILURE: Fields = {"site": _text, "round": _count, "reason": _text}
