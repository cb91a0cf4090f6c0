"""What a study does not show: sentences computed from its facts, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator

from medfl.report.limitations import several
from medfl.study.endpoint_text import has_primary
from medfl.study.report.study_results import StudyEvidence
from medfl.study.statistics import ENOUGH_REPEATS
from medfl.study.study_file import ALL
from medfl.study.study_tables import number


def study_limits(evidence: StudyEvidence) -> list[tuple[str, str]]:
    """(short name, sentence) of everything that stands between the figures and a claim about a method."""
    return [*_runs(evidence), *_statistics(evidence), *_design(evidence), *_always()]


def disagreement(evidence: StudyEvidence) -> str:
    """A sentence where study.json and runs.csv are of two moments, so that tables and charts may differ; else ""."""
    by_partition = {name: part["methods"] for name, part in evidence.partitions.items() if name != ALL}
    analysed = sum(entry["runs"] for methods in by_partition.values() for entry in methods.values())
    if analysed == len(evidence.runs):
        return ""
    return (
        f"NOT OF ONE MOMENT: study.json tells of {analysed} runs, runs.csv holds {len(evidence.runs)}, so tables and "
        "charts of this page may differ. `medfl study` with --tables brings them together."
    )


def _runs(evidence: StudyEvidence) -> Iterator[tuple[str, str]]:
    study = evidence.study
    open_ = study["planned"] - study["done"]
    if open_:
        yield (
            "Runs are missing.",
            f"{open_} of {study['planned']} runs are not done{_short(evidence)}. One that fails would hardly have been "
            "a method's best.",
        )
    mixed = sorted({f"{part}, seed {seed}" for (part, seed, _), digests in evidence.deals.items() if len(digests) > 1})
    if mixed:
        yield (
            "Pairs on different data.",
            f"The methods of one repeat did not have the same patches at the same sites ({several(mixed)}), so their "
            "differences are not of the method alone.",
        )
    lost = [row for row in evidence.runs if number(row, "failures")]
    if lost:
        methods = several(list(dict.fromkeys(row["method"] for row in lost)))
        yield "Sites failed.", f"In {len(lost)} of {len(evidence.runs)} runs a site failed at least once ({methods})."


def _short(evidence: StudyEvidence) -> str:
    """Which methods have fewer runs than others."""
    done = {name: len(evidence.runs_of(ALL, name)) for name in evidence.methods}
    most = max(done.values(), default=0)
    fewer = [f"{name} ({count} of {most})" for name, count in done.items() if count < most]
    if not fewer:
        return ""
    return (
        f"; fewer than of other methods of {several(fewer)}, whose means are therefore over other seeds: compare them "
        "by the paired differences alone"
    )


def _statistics(evidence: StudyEvidence) -> Iterator[tuple[str, str]]:
    count, compared, unit = evidence.most_units, len(evidence.compared), evidence.unit
    seeds = len(evidence.seeds)
    if seeds < 2:
        yield "One seed.", "No interval is over seeds, and no order of methods on this page is a finding."
    elif count < 2:
        yield (
            "One federation.",
            "Every seed had the same institutions, which are one federation: nothing is said of which method is better "
            "for another one. `unit: seed` in the study file tells how figures vary with the seed at these sites.",
        )
    elif count < ENOUGH_REPEATS:
        yield (
            f"Few {unit}s.",
            f"An interval of one partition rests on {count} numbers at most: it holds if they scatter normally, which "
            f"{count} numbers cannot tell. So nothing is said of which method is better; {ENOUGH_REPEATS} distinct "
            f"{unit}s are needed.",
        )
    if unit == "seed":
        yield (
            "These sites alone.",
            "Every seed counts as one, so what is said is of these institutions and not of a federation of others.",
        )
    if compared > 1:
        yield (
            "Highest is not best.",
            f"The highest of {compared + 1} means is high partly by luck. Intervals are not adjusted for the number of "
            "methods or partitions: one in twenty leaves out zero where there is no difference."
            + (" Only the primary endpoints are." if has_primary(evidence.study) else ""),
        )
    if any(entry["pairs"] for part in evidence.partitions.values() for entry in part["comparisons"].values()):
        yield (
            "Wins are no test.",
            "The sites of one seed share a model, so pairs of seed and site are not independent; what is inferred here "
            "is the interval over "
            f"{unit}s.",
        )
    if seeds < 2:
        return
    if evidence.same_patches:
        yield (
            "The same patients every time.",
            "All seeds had the same patches at the same sites: the intervals say how figures vary with initial weights "
            "and order of batches, not with other patients.",
        )
    else:
        yield (
            "Other patches every time.",
            "Who held which patches, in which split, changed from seed to seed: the intervals say how figures vary "
            "with that and with the training, not from hospital to hospital.",
        )


def _design(evidence: StudyEvidence) -> Iterator[tuple[str, str]]:
    if evidence.figure.startswith("train_"):
        yield (
            "No unseen site.",
            "The figure is of sites that trained, so nothing is known about a hospital that did not.",
        )
    brackets = [set(partition["brackets"]) for partition in evidence.partitions.values() if partition["methods"]]
    lacking = [arm for arm in ("local_only", "centralised") if not all(arm in ends for ends in brackets)]
    if brackets and lacking:
        words = {
            "local_only": "what every site reaches alone",
            "centralised": "what all data in one place would reach",
        }
        yield "No brackets.", f"Not known everywhere: {' and '.join(words[arm] for arm in lacking)}."
    if len(evidence.methods) > 1:
        yield (
            "Settings.",
            "The tables do not tell how learning rates and other settings were chosen. A method that was given less "
            "care, or was tuned on these very seeds, is judged wrongly.",
        )
    if any(row["virtual_seconds"] for row in evidence.runs):
        yield "No real clock.", "Virtual time follows from stated lines, not from a network."


def _always() -> Iterator[tuple[str, str]]:
    yield "Other hospitals.", "These sites stand for no other; the next hospital may turn the order round."
    yield "Benefit to anyone.", "Research only: nothing here was tested in care, and this is not a medical device."
