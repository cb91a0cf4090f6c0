"""What may be done at a site that never trained, from its unlabelled patches: steps, and why one is left out.

Source-free adaptation: nothing of the training data is there, only the model and a few numbers. The steps have one
order. `em` alone is refused: it takes p(x | y) to be that of training, which a new laboratory's stain breaks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

Step = Literal["normalise", "batchnorm", "class_mix", "em"]
STEPS: tuple[Step, ...] = get_args(Step)
PLAIN = "none"
"""The name of no remedy: the model as it is."""
REASONS = {
    "few_groups": "too few source groups to adapt on some and judge on others",
    "few_patches": "too few unlabelled patches",
    "no_tissue": "no stain statistics can be had of its patches",
    "class_spread": "its predicted class mix is not to be believed once statistics are re-estimated",
    "no_class_mix": "its site file states no `class_mix`",
    "alone": "em is not done by itself",
    "no_reference": "no stain to normalise to",
}
"""Why a step was left out at a site, in a word that travels and in words for people."""


def name_of(steps: Collection[str]) -> str:
    """`batchnorm+em`; `none` for no step."""
    return "+".join(step for step in STEPS if step in steps) or PLAIN


def steps_of(remedy: str) -> tuple[Step, ...]:
    """The steps of a name, in their order.

    Raises:
        ValueError: an unknown step or one that stands twice, or steps that do not go together.
    """
    words = [] if remedy == PLAIN else remedy.split("+")
    if strange := [word for word in words if word not in STEPS]:
        raise ValueError(f"there is no remedy {strange[0]!r}, only {', '.join(STEPS)}, joined by +, and none")
    if len(set(words)) < len(words):
        raise ValueError("each step of a remedy stands once")
    if {"class_mix", "em"} <= set(words):
        raise ValueError("class_mix states the class mix and em estimates it; keep one of them")
    if words == ["em"]:
        raise ValueError(
            "em alone is refused: it takes patches of a class to look as in training, and at hospitals with another "
            "stain it made calibration worse than nothing did (mean ECE .70 for .44); write batchnorm+em or "
            "normalise+em"
        )
    return tuple(step for step in STEPS if step in words)


def looks_changed(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Those of the steps that change the network or what it sees, and not only what is made of its logits."""
    return tuple(step for step in steps if step in ("normalise", "batchnorm"))


def left_out(adaptation: Mapping[str, Any]) -> list[str]:
    """A sentence's part for every step that was left out at a site: `batchnorm: ...`."""
    dropped: Mapping[str, str] = adaptation["left_out"]
    if set(dropped.values()) == {"few_groups"}:
        return [REASONS["few_groups"]]
    return [f"{step}: {REASONS[word]}" for step, word in dropped.items()]
