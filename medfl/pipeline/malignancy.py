"""Which classes of a task are malignant."""

from __future__ import annotations

from medfl import config

MALIGNANT = ("lung_aca", "lung_scc", "colon_aca")
BENIGN = ("lung_n", "colon_n")


def malignant_classes(task: config.Task) -> tuple[str, ...]:
    """The classes of the target "malignant", in class order.

    Where the task names none, those of LC25000 that are, as long as every class is one of LC25000's and some are
    benign; otherwise nothing is known, and there is no such target.
    """
    if task.malignant is not None:
        return tuple(name for name in task.classes if name in task.malignant)
    familiar = set(task.classes) <= {*MALIGNANT, *BENIGN} and any(name in BENIGN for name in task.classes)
    return tuple(name for name in task.classes if familiar and name in MALIGNANT)
