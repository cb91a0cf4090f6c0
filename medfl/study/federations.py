"""Which runs of a study are of one federation."""

from __future__ import annotations

import json

from medfl.study.pool import Repeat
from medfl.study.study_file import Planned, StudyPlan


def federations(study: StudyPlan) -> dict[Repeat, str]:
    """Repeat -> the federation it is of, by the first seed that it has.

    Sites that the study's seeds draw are another federation with every seed, and one and the same in every partition:
    partitions only stain it, or mix its classes, in another way. Sites that the pipeline lists are one federation,
    whatever the seed. With `unit: seed` every seed counts, and what is said is of these sites alone.
    """
    own: dict[Repeat, str] = {}
    first: dict[tuple[str, str], str] = {}
    for run in study.runs:
        repeat = (run.partition, str(run.seed))
        if repeat not in own:
            seed = str(run.seed)
            own[repeat] = seed if study.file.unit == "seed" else first.setdefault((run.partition, _sites(run)), seed)
    return own


def _sites(run: Planned) -> str:
    """The institutions of a run, whatever their roles."""
    sites = [*run.pipeline.train_sites, *run.pipeline.held_out_sites]
    drawn = [site.model_dump(mode="json", exclude={"role", "description", "about"}) for site in sites]
    return json.dumps(sorted(drawn, key=lambda site: str(site["name"])), sort_keys=True)
