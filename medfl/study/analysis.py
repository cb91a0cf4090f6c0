"""study.json: what a study found, computed from its tables alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medfl.metrics.figures import figure
from medfl.study.endpoint_results import answers, questions
from medfl.study.federations import federations
from medfl.study.pool import ByRepeat, Pool, Repeat, Values
from medfl.study.run_figures import bounds, over_folds, run_figures
from medfl.study.statistics import ByRepeatAndSite, difference, mean_over, paired
from medfl.study.study_file import ALL, BRACKETS, Planned, StudyPlan
from medfl.study.study_tables import Tables, number
from medfl.study.tuning import Choices, choice_table, choices

SMALLEST_GAP = 0.005
"""Between local_only and centralised: below it a share of the gap means nothing."""


def result(study: StudyPlan, tables: Tables, failed: Mapping[str, str]) -> dict[str, Any]:
    """What the finished runs say.

    Args:
        study: what was asked for.
        tables: what is done.
        failed: title of each run that failed -> why.
    """
    done = [run for run in study.runs if run.key in tables.rows]
    whole = _without_started_folds(study, done)
    partitions = {name: [run for run in whole if run.partition == name] for name in study.partitions}
    own = federations(study)
    pools = {name: Pool(own, [name]) for name in partitions}
    if len(partitions) > 1:
        pools[ALL] = Pool.of_all(own, [name for name, runs in partitions.items() if runs])
        partitions[ALL] = whole
    return {
        "name": study.file.name,
        "description": study.file.description,
        "figure": study.figure,
        "reference": study.methods[0],
        "seeds": study.file.seeds,
        "one_seed": len(study.file.seeds) == 1,
        "unit": study.file.unit,
        "pooled": list(pools[ALL].strata) if ALL in pools else [],
        "leave_one_site_out": study.file.leave_one_site_out,
        "planned": len(study.runs),
        "done": len(done),
        "failed": dict(sorted(failed.items())),
        "methods": {name: arm.chain for name, arm in study.file.arms().items()},
        "design": _design(study, [tables.rows[run.key].run.get("design", "") for run in done]),
        "endpoints": _endpoints(study, tables, whole, own, failed),
        "tuned": _tuned(study, tables),
        "partitions": {name: _partition(study, tables, runs, pools[name]) for name, runs in partitions.items()},
    }


def _design(study: StudyPlan, noted: Sequence[str]) -> dict[str, Any] | None:
    """The design page as it is, and how many runs were carried out under which."""
    if study.design is None:
        return None
    return {
        "file": Path(str(study.file.design)).name,
        "sha256": study.design,
        "runs": dict(sorted(Counter(noted).items())),
    }


def _tuned(study: StudyPlan, tables: Tables) -> dict[str, Any] | None:
    """The table of what was chosen, of a study with a grid."""
    return asdict(choice_table(study.file.grid, chosen(study, tables))) if study.file.grid else None


def _endpoints(
    study: StudyPlan, tables: Tables, whole: Sequence[Planned], own: Mapping[Repeat, str], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The answers to what the study asks; none where it states no endpoints."""
    open_runs = Counter(run.method for run in study.runs if run.key not in tables.rows and run.title not in failed)
    return answers(questions(study.file), _values(tables, whole), Pool.of_all(own, study.partitions), open_runs)


def chosen(study: StudyPlan, tables: Tables) -> Choices:
    """What a study with a grid chose, where all its tuning federations are done."""
    done = _without_started_folds(study, [run for run in study.runs if run.key in tables.rows])
    grid, methods = study.file.grid, list(study.file.model_copy(update={"grid": None}).arms())
    asked = list(dict.fromkeys(_repeat(run) for run in study.runs))
    return choices(grid, methods, _values(tables, done), asked) if grid else {}


def _values(tables: Tables, runs: Sequence[Planned]) -> Values:
    """What these runs say."""
    by_method: dict[str, list[Planned]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    return lambda method, column: _by_repeat(tables, by_method.get(method, []), column)


def _without_started_folds(study: StudyPlan, done: Sequence[Planned]) -> list[Planned]:
    """The runs whose repeat has all its folds: a mean over some sites is no mean over all."""
    asked = Counter((run.method, _repeat(run)) for run in study.runs)
    have = Counter((run.method, _repeat(run)) for run in done)
    return [run for run in done if have[run.method, _repeat(run)] == asked[run.method, _repeat(run)]]


def save(out: Path, findings: Mapping[str, Any]) -> None:
    """Write study.json."""
    from medfl.data.atomic_file import write_text

    write_text(out / "study.json", json.dumps(findings, indent=1, allow_nan=False) + "\n")


def _partition(study: StudyPlan, tables: Tables, runs: Sequence[Planned], pool: Pool) -> dict[str, Any]:
    by_method = {name: [run for run in runs if run.method == name] for name in study.methods}
    values = {
        name: {column: _by_repeat(tables, its, column) for column in run_figures()}
        for name, its in by_method.items()
        if its
    }
    sites = {name: _by_site(tables, by_method[name]) for name in values}
    headline = {name: mean_over(pool.means(columns[study.figure]).values()) for name, columns in values.items()}
    ends = {name: headline[arm].mean for name, arm in _brackets(study).items() if arm in headline}
    methods = {
        name: {
            "chain": tables.rows[by_method[name][0].key].run["chain"],
            "runs": len(by_method[name]),
            "share_of_gap": share_of_gap(headline[name].mean, ends),
            "figures": {
                name: mean_over(pool.means(its).values(), bounds(name)).to_json() for name, its in figures.items()
            },
            "values": {" ".join(repeat): value for repeat, value in sorted(figures[study.figure].items())},
        }
        for name, figures in values.items()
    }
    unseen = _unseen(tables, runs) if study.file.leave_one_site_out else {}
    repeats = sorted({_repeat(run) for run in study.runs if run.partition in pool.strata})
    return {
        "federations": {" ".join(repeat): pool.federations[repeat] for repeat in repeats},
        "methods": methods,
        "brackets": ends,
        "comparisons": _comparisons(study, values, sites, pool),
        "unseen": unseen,
    }


def _unseen(tables: Tables, runs: Sequence[Planned]) -> dict[str, Any]:
    """Left-out site -> method -> mean AUROC over seeds, and the interval of its patches where there is one seed."""
    by_site: dict[str, dict[str, list[Any]]] = {}
    for run in runs:
        for row in tables.rows[run.key].sites:
            if row["site"] == run.fold and row["model"] == "global":
                figures = [number(row, name) for name in ("auroc", "auroc_low", "auroc_high")]
                by_site.setdefault(run.fold, {}).setdefault(run.method, []).append(figures)
    return {
        site: {
            name: {
                "auroc": mean_over((auroc for auroc, _, _ in its), figure("auroc").bounds).to_json(),
                "ci": its[0][1:] if len(its) == 1 and None not in its[0] else None,
            }
            for name, its in methods.items()
        }
        for site, methods in sorted(by_site.items())
    }


def _comparisons(
    study: StudyPlan, values: Mapping[str, Mapping[str, ByRepeat]], sites: Mapping[str, ByRepeatAndSite], pool: Pool
) -> dict[str, Any]:
    """Every method against the first."""
    reference = study.methods[0]
    others = [name for name in values if name != reference] if reference in values else []
    comparisons = {}
    for name in others:
        moved = difference(values[name][study.figure], values[reference][study.figure], bounds(study.figure), pool)
        comparisons[name] = paired(sites[name], sites[reference], moved).to_json()
        comparisons[name]["figures"] = {
            column: difference(values[name][column], values[reference][column], bounds(column), pool).to_json()
            for column in run_figures()
        }
    return comparisons


def share_of_gap(value: float | None, ends: Mapping[str, float | None]) -> float | None:
    """Where a figure lies between local_only (0) and centralised (1)."""
    low, high = ends.get("local_only"), ends.get("centralised")
    if value is None or low is None or high is None or high - low < SMALLEST_GAP:
        return None
    return (value - low) / (high - low)


def _brackets(study: StudyPlan) -> dict[str, str]:
    """`local_only` and `centralised` -> what the study calls them."""
    arms = study.file.arms().items()
    return {arm: name for arm in BRACKETS for name, chain in arms if arm == chain.baseline}


def _repeat(run: Planned) -> Repeat:
    return (run.partition, str(run.seed))


def _by_repeat(tables: Tables, runs: Sequence[Planned], column: str) -> ByRepeat:
    """A figure of every repeat: of its one run, or over its folds."""
    by_repeat: dict[Repeat, list[float | None]] = {}
    for run in runs:
        by_repeat.setdefault(_repeat(run), []).append(number(tables.rows[run.key].run, column))
    return {repeat: over_folds(column, its) for repeat, its in by_repeat.items()}


def _by_site(tables: Tables, runs: Sequence[Planned]) -> ByRepeatAndSite:
    """AUROC of the global model at every held-out site of every repeat; at training sites where none is held out."""
    by_site = {}
    for run in runs:
        role = "held_out" if run.pipeline.held_out_sites else "train"
        for row in tables.rows[run.key].sites:
            value = number(row, "auroc")
            if row["role"] == role and row["model"] == "global" and value is not None:
                by_site[_repeat(run), row["site"]] = value
    return by_site
