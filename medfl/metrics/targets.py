"""Yes-or-no questions that the probabilities answer: each class against the rest, and malignant against benign."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfl.metrics.auroc import BoolArray, FloatArray, IntArray

MALIGNANT = "malignant"


def targets(classes: Sequence[str], malignant: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the M targets: every class, then `malignant` if some classes are named so.

    A class that is itself called `malignant` and is the only one named is the same question and stands once.

    Raises:
        ValueError: `malignant` names something that is no class, or a class called `malignant` means something else.
    """
    named = list(malignant or ())
    unknown = [name for name in named if name not in classes]
    if unknown:
        raise ValueError(f"malignant names {unknown[0]!r}, which is none of the classes {', '.join(classes)}")
    if not named or (named == [MALIGNANT]):
        return tuple(classes)
    if MALIGNANT in classes:
        raise ValueError(f"a class is called {MALIGNANT!r}, but the malignant classes are {', '.join(named)}")
    return (*classes, MALIGNANT)


def _members(classes: Sequence[str], malignant: Sequence[str] | None) -> BoolArray:
    """bool[C, M]: which classes are a yes to which target."""
    names = targets(classes, malignant)
    members = np.eye(len(classes), len(names), dtype=bool)
    if len(names) > len(classes):
        members[:, -1] = [name in (malignant or ()) for name in classes]
    return members


def target_scores(probs: FloatArray, classes: Sequence[str], malignant: Sequence[str] | None) -> FloatArray:
    """Score of each patch for each target f64[N, M]: the summed probability `probs [N, C]` of the target's classes."""
    members = _members(classes, malignant)
    # Not a matrix product: its order of summation, and so the last bit, may depend on the number of patches.
    return np.stack([probs[:, members[:, m]].sum(axis=1) for m in range(members.shape[1])], axis=1)


def target_truth(labels: IntArray, classes: Sequence[str], malignant: Sequence[str] | None) -> BoolArray:
    """Whether each patch is a yes to each target, bool[N, M], from the true classes `labels [N]`."""
    return np.asarray(_members(classes, malignant)[labels])
