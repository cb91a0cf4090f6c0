"""What a site's figures, sums and curves must be before anything is made of them: the right form, each number in range.

The ranges of figures are those of the table in `medfl.metrics.figures`. Each check raises ValueError with one sentence
that names the part; it neither changes nor completes what it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from medfl.metrics import figures
from medfl.metrics.adaptive_bins import ADAPTIVE_BINS
from medfl.metrics.histograms import BINS
from medfl.metrics.intervals import LARGEST_BRIER, LARGEST_NLL
from medfl.metrics.operating import RATES
from medfl.metrics.remedies import REASONS, STEPS
from medfl.metrics.roc import GRID
from medfl.metrics.subgroups import LONGEST_VALUE, MOST_VALUES, kept_figures
from medfl.metrics.units import MIXED, UNITS
from medfl.plain_text import printable

Check = Callable[[Any, str], None]

LARGEST_COUNT = 10**9
"""Patches of a site, at most: the product of two such counts still fits 64 bits."""
LARGEST_LOSS = 1e9
LARGEST_SUM = 1e30
"""Of what has no bound of its own: sums of these stay finite."""
LARGEST_ERROR = 10.0
"""Of a standard error of an AUROC."""
SMALLEST = 1e-12
"""Of what is reckoned with as a divisor or on a logarithmic scale: degrees of freedom, errors that are above 0."""
TOLERANCE = 1e-6
"""By which a sum of rounded numbers may pass its bound."""
SHOWN = 40


def number(low: float, high: float, slack: float = 0.0) -> Check:
    """A finite number from `low` to `high`, or `slack` beyond, by rounding."""

    def check(value: Any, where: str) -> None:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not low - slack <= value <= high + slack:
            raise ValueError(f"`{where}` is {brief(value)} and must be a number from {low:g} to {high:g}")

    return check


def count(value: Any, where: str) -> None:
    """A whole number of patches or groups."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"`{where}` is {brief(value)} and must be a whole number from 0 to {LARGEST_COUNT}")


def truth(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"`{where}` is {brief(value)} and must be true or false")


def interval(low: float, high: float) -> Check:
    """Two numbers of the range, the lower first."""
    ends = listed(number(low, high, TOLERANCE), 2)

    def check(value: Any, where: str) -> None:
        ends(value, where)
        if value[0] > value[1]:
            raise ValueError(f"`{where}` is {brief(value)}, its ends the wrong way round")

    return check


def maybe(inner: Check) -> Check:
    """The inner check, or None for what is not available."""
    return lambda value, where: None if value is None else inner(value, where)


def listed(inner: Check, length: int) -> Check:
    """A list of so many."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list | tuple) or len(value) != length:
            raise ValueError(f"`{where}` is no list of {length}")
        for item in value:
            inner(item, where)

    return check


def named(inner: Check, names: Sequence[str]) -> Check:
    """A mapping with exactly these names."""
    return record(dict.fromkeys(names, inner))


def record(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A mapping of these fields, and of no others but the optional ones."""
    allowed = {**fields, **(optional or {})}
    shown = {name: brief(name) for name in allowed}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"`{where}` is no mapping")
        if strange := sorted(map(str, value.keys() - allowed.keys())):
            raise ValueError(f"`{where}` has a part {brief(strange[0])} that nobody asked for")
        if missing := sorted(fields.keys() - value.keys()):
            raise ValueError(f"`{where}` lacks {brief(missing[0])}")
        for name, part in value.items():
            allowed[name](part, f"{where}.{shown[name]}" if where else shown[name])

    return check


def brief(value: Any) -> str:
    """A value as a sentence can quote it: short, and nothing in it that commands a terminal."""
    text = value if isinstance(value, str) else repr(value)
    kept = printable(text, SHOWN + 1)
    return kept if len(kept) <= SHOWN else kept[: SHOWN - 3] + "..."


FRACTION = number(0.0, 1.0)
INTERVAL = maybe(interval(0.0, 1.0))
_DEGREES = number(1.0, LARGEST_COUNT)


def _least_error(value: Any, where: str) -> None:
    """A share of an AUROC's pairs that leaves something of both."""
    number(0.0, 0.5)(value, where)
    if not 0.0 < 1.0 - value < 1.0:
        raise ValueError(f"`{where}` is {brief(value)} and must be above 0")


def site_figures_check(classes: Sequence[str], targets: Sequence[str], bins: int, columns: Sequence[str] = ()) -> Check:
    """What `medfl.metrics.measure.measure` and `site_figures` return as figures of one site.

    Args:
        classes: the C classes.
        targets: `medfl.metrics.targets.targets`: the classes, and "malignant" where there is such a target.
        bins: of calibration figures.
        columns: of subgroups that the pipeline names.
    """
    maybe_fraction = maybe(FRACTION)
    fields: dict[str, Check] = {
        "n": count,
        "n_groups": count,
        "few_groups": truth,
        "supported_classes": _some_of(classes),
        "support": named(record({"patches": maybe(count), "groups": maybe(count)}), classes),
        "confusion": listed(listed(maybe(count), len(classes)), len(classes)),
    }
    point = {"threshold": maybe_fraction, "positives": maybe(count), "negatives": maybe(count)}
    point |= dict.fromkeys(RATES, maybe_fraction) | dict.fromkeys([f"{name}_ci" for name in RATES], INTERVAL)
    diagram = {"edges": listed(FRACTION, bins + 1), "count": listed(count, bins)}
    diagram |= {name: listed(maybe_fraction, bins) for name in ("confidence", "accuracy")}
    attack: dict[str, Check] = {"auroc": maybe_fraction, "auroc_ci": INTERVAL, "few_groups": truth}
    attack |= {"n_members": count, "n_others": count}
    optional: dict[str, Check] = {
        "operating": record({}, dict.fromkeys(targets, record(point))),
        "reliability": record(diagram),
        "reliability_before": record(diagram),
        "membership": record(attack),
        "auroc_df": maybe(_DEGREES),
        "auroc_least": maybe(record({"error": _least_error, "se": FRACTION, "df": _DEGREES})),
        "withheld": record({"min_count": count, "all": truth, "classes": _some_of(classes)}),
        "adaptation": record(
            {
                "steps": _some_of(STEPS),
                "left_out": record({}, dict.fromkeys(STEPS, _one_of(REASONS))),
                "patches": count,
                "groups": count,
            }
        ),
    }
    for row in figures.FIGURES:
        required, further = _row_checks(row, classes)
        fields |= required
        optional |= further
    per_unit = record(fields, optional | {"left_out": _one_of([MIXED])})
    further = dict.fromkeys(UNITS, per_unit)
    if columns:
        kept = kept_figures()
        required = {key: check for key, check in fields.items() if key in kept}
        own = record(required | {"operating": optional["operating"]}, {k: optional[k] for k in kept & optional.keys()})
        further["subgroups"] = record({}, dict.fromkeys(columns, record({"values": by_value(own), "withheld": count})))
    return record(fields, optional | further)


def by_value(inner: Check) -> Check:
    """A mapping from the values of a column of subgroups, words in their common form."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping) or len(value) > MOST_VALUES + 1:
            raise ValueError(f"`{where}` is no mapping of {MOST_VALUES} values")
        for name, own in value.items():
            if (
                not isinstance(name, str)
                or not 0 < len(name) <= LONGEST_VALUE
                or printable(name, LONGEST_VALUE) != name
            ):
                raise ValueError(
                    f"`{where}` has the value {brief(name)}, which is no word of {LONGEST_VALUE} characters"
                )
            inner(own, f"{where}.{brief(name)}")

    return check


def _row_checks(row: figures.SiteFigure, classes: Sequence[str]) -> tuple[dict[str, Check], dict[str, Check]]:
    """The entries of a figure that are always there, and those of a final measurement or of one with intervals."""
    low, high = row.bounds[0], min(row.bounds[1], LARGEST_LOSS)
    # What goes through a logit has no slack; a mean of numbers up to 1 does not pass 1 by rounding.
    value = maybe(number(low, high, 0.0 if row.direction == "higher" else TOLERANCE))
    ends = maybe(interval(low, high))
    fields, optional = {row.key: value}, {f"{row.key}_ci": ends}
    if row.key == "auroc":
        degrees = number(SMALLEST, LARGEST_SUM)
        least = {"error": number(SMALLEST, 1.0), "se": number(SMALLEST, LARGEST_ERROR), "df": degrees}
        optional |= {"auroc_se": maybe(number(0.0, LARGEST_ERROR)), "auroc_df": maybe(degrees)}
        optional["auroc_least"] = maybe(record(least))
    if row.per_class is not None:
        fields[f"{row.key}_per_class"] = named(value, classes)
        optional[f"{row.key}_per_class_ci"] = named(ends, classes)
    if row.before is not None:
        optional |= {f"{row.key}_{when}": value for when in ("before", "after")} | {f"{row.key}_before_ci": ends}
    return fields, optional


def score_sums_check(classes: int, bins: int) -> Check:
    """What `ScoreSums.to_lists` gives, without leading axes."""
    per_bin = {name: listed(number(0.0, LARGEST_COUNT), bins) for name in ("count", "confidence_sum", "correct_sum")}
    per_class = {name: listed(check, classes) for name, check in per_bin.items()}
    return record(
        {
            "squared_error": number(0.0, LARGEST_BRIER * LARGEST_COUNT),
            "log_loss": number(0.0, LARGEST_NLL * LARGEST_COUNT),
            "confusion": listed(listed(number(0.0, LARGEST_COUNT), classes), classes),
            "top": record(per_bin),
            "classwise": record(per_class),
            "left_out": listed(number(0.0, LARGEST_COUNT), 2),
        }
    )


def histograms_check(targets: int) -> Check:
    """What `ScoreHistograms.to_lists` gives of so many targets."""
    rows = listed(_histogram, targets)
    return record({"positive": rows, "negative": rows})


def curves_check(targets: Sequence[str]) -> Check:
    """The curves of `medfl.metrics.site_figures`."""
    line = listed(FRACTION, len(GRID))
    band = record({"fpr": line, "tpr": line, "low": maybe(line), "high": maybe(line)})
    return record(
        {
            "targets": _exactly(targets),
            "roc": named(maybe(band), targets),
            "histograms": histograms_check(len(targets)),
            "calibration": record({"after": _adaptive, "before": _adaptive}),
        }
    )


def _adaptive(value: Any, where: str) -> None:
    """Bins of equal mass: four lists of one length."""
    n = len(value["count"]) if isinstance(value, Mapping) and isinstance(value.get("count"), list) else 0
    if n > ADAPTIVE_BINS:
        raise ValueError(f"`{where}` has {n} bins and may have {ADAPTIVE_BINS}")
    counts, shares = listed(number(1, LARGEST_COUNT), n), listed(FRACTION, n)
    record({"count": counts, "groups": counts, "confidence": shares, "accuracy": shares})(value, where)


def temperature_sums_check(temperatures: int) -> Check:
    """What `TemperatureSums.to_lists` gives of so many temperatures."""
    positive = listed(number(0.0, LARGEST_SUM, TOLERANCE), temperatures)
    slope = listed(number(-LARGEST_SUM, LARGEST_SUM), temperatures)
    return record({"n": count, "groups": count, "nll": positive, "slope": slope, "curvature": positive})


def scaling_sums_check(points: int, classes: int) -> Check:
    """What `ScalingSums.to_lists` gives of so many points and classes."""
    any_number = number(-LARGEST_SUM, LARGEST_SUM)
    row = listed(any_number, 2 * classes)
    parts = {"nll": listed(number(0.0, LARGEST_SUM, TOLERANCE), points), "gradient": listed(row, points)}
    return record({"n": count, "groups": count, **parts, "hessian": listed(listed(row, 2 * classes), points)})


def _histogram(value: Any, where: str) -> None:
    plain = isinstance(value, list) and len(value) == BINS and set(map(type, value)) == {int}
    if not plain or min(value) < 0 or max(value) > LARGEST_COUNT:  # one by one only to say what is wrong
        listed(count, BINS)(value, where)
    count(sum(value), where)


def _some_of(names: Sequence[str]) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or any(not isinstance(name, str) or name not in names for name in value):
            raise ValueError(f"`{where}` is no list of {', '.join(names)}")

    return check


def _one_of(words: Iterable[str]) -> Check:
    allowed = set(words)

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"`{where}` is {brief(value)}, no word for it")

    return check


def _exactly(names: Sequence[str]) -> Check:
    def check(value: Any, where: str) -> None:
        if value != list(names):
            raise ValueError(f"`{where}` is not the targets of this run")

    return check
