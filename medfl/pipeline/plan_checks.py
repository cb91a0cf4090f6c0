"""What would be missed only after the last round, looked at before the first: gates, selection, tracking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from medfl.config import Pipeline, Registry
from medfl.config.registry_names import check_alias, check_model_name
from medfl.errors import MedflError
from medfl.pipeline.malignancy import malignant_classes
from medfl.runs.gates import GATES, Gate
from medfl.runs.verdict import ROLES
from medfl.tracking.connect import check_scheme, resolve_uri

Rows = Sequence[Mapping[str, str | int]]


def check_end(pipeline: Pipeline, where: str) -> None:
    """Refuse a plan whose run could be trained, but not tracked or registered at its end.

    Raises:
        MedflError: a name or an alias that MLflow refuses, an address of an unknown kind, a gate on sites of a role
            that the pipeline does not have; each sentence begins with `where`.
    """
    try:
        check_tracking(pipeline)
        if pipeline.evaluation.top and not malignant_classes(pipeline.task):
            raise MedflError(
                "`evaluation.patients: {top: ...}` scores a patient by the patches that look most malignant; name the "
                "malignant ones of `task.classes` under `task.malignant`, or write `patients: mean`"
            )
        if pipeline.registry:
            _check_names(pipeline.registry)
        roles = {site.role or "train" for site in pipeline.all_sites}
        for gate in _gates(pipeline):
            if gate.role not in roles:
                raise MedflError(
                    f"`registry.gates.{gate.key}` reads figures of {ROLES[gate.role]} sites, of which the pipeline has "
                    f"none; add one under `sites.{gate.role}`, or remove the gate"
                )
    except MedflError as error:
        raise MedflError(f"{where}: {error}") from None


def check_tracking(pipeline: Pipeline) -> None:
    """Raise MedflError where the run is to go to no experiment, or to an address of a kind unknown to MLflow."""
    if pipeline.tracking.enabled and not pipeline.tracking.experiment.strip():
        raise MedflError("`tracking.experiment` is empty; name one")
    if pipeline.tracking.enabled or pipeline.registry:
        check_scheme(resolve_uri(pipeline.tracking))


def _check_names(registry: Registry) -> None:
    for key, word, check_word in (("name", registry.name, check_model_name), ("alias", registry.alias, check_alias)):
        try:
            if word is not None:
                check_word(word)
        except ValueError as error:
            raise MedflError(f"`registry.{key}`: {word!r}: {error}") from None


def check_plan(pipeline: Pipeline, rows: Rows) -> None:
    """Refuse what these data cannot give: a figure that a gate reads, or one that selects a round.

    Args:
        pipeline: what is planned.
        rows: as `Partition.counts` gives them, or as a site tells them, small counts blank; of a site without rows
            nothing is known.

    Raises:
        MedflError: naming the gate and the site, or `select`; with the remedy.
    """
    for gate in _gates(pipeline):
        for site in pipeline.all_sites:
            here = [row for row in rows if row["site"] == site.name and row["split"] == "test"]
            if site.role == gate.role and here and (lack := _lack(here, gate.figure)):
                raise MedflError(
                    f"`registry.gates.{gate.key}` reads {gate.figure} at the {ROLES[gate.role]} site {site.name}, "
                    f"whose test data have {lack}, so no model can pass; give it more data, or remove the gate"
                )
    if isinstance(pipeline.select, str):
        return
    figure = pipeline.select.metric.split("_", 2)[2]
    trained = {site.name for site in pipeline.train_sites}
    lacks = [
        _lack([row for row in rows if row["site"] == name and row["split"] == "val"], figure, groups=1)
        for name in sorted(trained & {str(row["site"]) for row in rows})
    ]
    if lacks and all(lacks):
        raise MedflError(
            f"`select.metric`: {pipeline.select.metric} is read from validation data, which at every training site "
            f"have {lacks[0]}; give the sites more data, raise `data.splits.val`, or leave `select` at last"
        )


def _gates(pipeline: Pipeline) -> Iterable[Gate]:
    """The gates that are set."""
    gates = pipeline.registry.gates if pipeline.registry else None
    return [gate for gate in GATES if gates is not None and getattr(gates, gate.key) is not None]


def _lack(rows: Rows, figure: str, groups: int = 2) -> str:
    """What a split lacks for a figure, in words; "" where it may have one. AUROC needs two classes, its interval two
    source groups. A blank count is a small one that the site withholds, and not 0."""
    withheld = any(row["groups"] == "" for row in rows)
    classes = [str(row["class"]) for row in rows if row["patches"] == "" or int(row["patches"])]
    if not classes:
        return "no patches"
    if "auroc" not in figure:
        return ""
    if len(classes) < 2:
        return f"patches of {classes[0]} only"
    if withheld or max(1, sum(int(row["groups"]) for row in rows)) >= groups:
        return ""
    return "patches of one source group only"
