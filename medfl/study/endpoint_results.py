"""The answers of a study: every endpoint with every comparison, from the tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfl.study.endpoints import Endpoint, word
from medfl.study.inference import Estimate, holm, interaction
from medfl.study.pool import ByRepeat, Pool, Values
from medfl.study.study_file import BRACKETS, StudyFile

PRIMARY, SECONDARY = "primary", "secondary"
OF_UPDATES = ("drift", "accumulated_variance")
"""Figures of how the updates of a round's sites scatter, which a baseline without such rounds does not have."""


@dataclass(frozen=True)
class Question:
    """One endpoint of one comparison, `primary` or `secondary`: primary are the primary endpoints of the primary
    comparisons."""

    endpoint: Endpoint
    method: str
    against: str
    rank: str


def questions(file: StudyFile) -> list[Question]:
    """All that a study asks, the primary ones first; nothing where it states no endpoints. A baseline is not asked what
    it does not have (`OF_UPDATES`)."""
    if file.endpoints is None:
        return []
    pairs, arms = file.comparisons, file.arms()
    compared = {
        PRIMARY: pairs.primary if pairs else _against_the_first(file),
        SECONDARY: pairs.secondary if pairs else [],
    }
    asked = [
        Question(endpoint, method, against, PRIMARY if ranks == (PRIMARY, PRIMARY) else SECONDARY)
        for ranks, both, endpoints in (
            ((of_pair, of_endpoint), compared[of_pair], getattr(file.endpoints, of_endpoint))
            for of_pair in (PRIMARY, SECONDARY)
            for of_endpoint in (PRIMARY, SECONDARY)
        )
        for method, against in both
        for endpoint in endpoints
        if endpoint.figure not in OF_UPDATES or not {arms[name].baseline for name in (method, against)} & {*BRACKETS}
    ]
    return sorted(asked, key=lambda question: question.rank)


def _against_the_first(file: StudyFile) -> list[tuple[str, str]]:
    """Every federated method with the first."""
    federated = [name for name, arm in file.arms().items() if arm.baseline not in BRACKETS]
    return [(name, federated[0]) for name in federated[1:]]


def answers(
    asked: Sequence[Question], values: Values, pool: Pool, open_runs: Mapping[str, int]
) -> list[dict[str, Any]]:
    """An entry of study.json for every question.

    Args:
        asked: the questions.
        values: what the runs say.
        pool: the strata that are pooled, and their federations.
        open_runs: method -> runs that are neither done nor failed: while there are any, nothing is decided, since a
            study that is looked at before its end, and stopped where it pleases, finds too much.
    """
    moved = [_moved(question, values) for question in asked]
    estimates = [Estimate.of(list(pool.means(its).values())) for its in moved]
    p_values = [
        question.endpoint.p(estimate) if estimate else None for question, estimate in zip(asked, estimates, strict=True)
    ]
    family = [index for index, question in enumerate(asked) if question.rank == PRIMARY]
    adjusted = dict(zip(family, holm([_or_one(p_values[index]) for index in family]), strict=True))
    return [
        _answer(question, moved[index], estimates[index], p_values[index], adjusted.get(index), pool, open_runs)
        for index, question in enumerate(asked)
    ]


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


def _moved(question: Question, values: Values) -> dict[tuple[str, ...], float | None]:
    """What the method moved the figure by in every repeat of both; one may have fewer federations than the other."""
    method, other = (values(name, question.endpoint.figure) for name in (question.method, question.against))
    return {
        repeat: question.endpoint.moved(value, other[repeat]) for repeat, value in method.items() if repeat in other
    }


def _answer(
    question: Question,
    moved: ByRepeat,
    estimate: Estimate | None,
    p: float | None,
    adjusted: float | None,
    pool: Pool,
    open_runs: Mapping[str, int],
) -> dict[str, Any]:
    endpoint = question.endpoint
    waiting = open_runs.get(question.method, 0) + open_runs.get(question.against, 0)
    verdict, by_stated_test = word(endpoint, None if waiting else estimate, p if adjusted is None else adjusted)
    rows = np.array(list(pool.rows(moved).values())).reshape(-1, len(pool.strata))
    between = interaction(rows)
    return {
        "rank": question.rank,
        "method": question.method,
        "against": question.against,
        **endpoint.model_dump(),
        "word": verdict,
        "of_the_stated_test": by_stated_test,
        "open_runs": waiting,
        **_shown(endpoint, list(pool.means(moved).values())),
        "ci90": None if estimate is None else [endpoint.shown(end) for end in estimate.interval(0.9)],
        "p": p,
        "p_holm": adjusted if estimate else None,
        "without_figure": sum(value is None for value in moved.values()),
        "interaction": None if between is None else {"f": between.f, "df": list(between.df), "p": between.p},
        "strata": {
            name: _shown(endpoint, list(Pool(pool.federations, [name]).means(moved).values()))
            for name in dict.fromkeys(repeat[0] for repeat in moved)
        },
    }


def _shown(endpoint: Endpoint, values: Sequence[float]) -> dict[str, Any]:
    """Federations, their mean and its 95 % interval, as a difference or a ratio."""
    estimate = Estimate.of(values)
    if estimate is None:
        return {"n": len(values), "estimate": endpoint.shown(values[0]) if values else None, "ci": None}
    ends = [endpoint.shown(end) for end in estimate.interval()]
    return {"n": estimate.n, "estimate": endpoint.shown(estimate.mean), "ci": ends}
