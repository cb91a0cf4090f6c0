"""Nothing that a site says of its data is recorded before its every part has been checked, whatever the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from medfl.data.normalise import FIXED, LARGEST, statistics_of
from medfl.data.stain_exchange import NUMBERS, DyeSpread
from medfl.federation.transport import AsyncTransport, Transport
from medfl.messages import (
    AdaptRequest,
    Failure,
    HistogramRequest,
    KeyRequest,
    MeasureRequest,
    Reply,
    Request,
    ScalingRequest,
    StainRequest,
    TemperatureRequest,
    UnmaskRequest,
)
from medfl.methods.core.masked_sums import KEY, OWN, PAIR, SEED, SIGNED
from medfl.metrics import figure_checks as checks
from medfl.metrics.monitored import moments_check
from medfl.metrics.remedies import PLAIN
from medfl.metrics.targets import targets
from medfl.metrics.units import UNITS

PHASES = ("train", "evaluate")
MODEL_NAME = 32  # letters
LARGEST_SECONDS = 1e9


class CheckedTransport:
    """A transport whose replies fit what was asked; one that does not is a named failure of its site.

    Args:
        inner: how sites are reached.
        classes: of the model.
        bins: of calibration figures.
        personal: whether the method has sites measure models of their own beside the one they were sent.
        columns: of subgroups that the pipeline names.
    """

    def __init__(
        self,
        inner: Transport,
        classes: Sequence[str],
        bins: int,
        personal: bool = False,
        columns: Sequence[str] = (),
    ) -> None:
        self.inner = inner
        self.classes = tuple(classes)
        self.bins = bins
        self.personal = personal
        self.columns = tuple(columns)
        self._figure_checks: dict[tuple[tuple[str, ...], tuple[str, ...]], checks.Check] = {}

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call."""
        asked: dict[str, Request] = {}

        def noted(name: str) -> Request:
            asked[name] = request(name)
            return asked[name]

        for answer in self.inner.call(sites, noted):
            yield self.checked(asked[answer.site], answer) if answer.site in asked else answer

    def post(self, site: str, request: Request) -> Future[Reply | Failure]:
        """See AsyncTransport.post."""
        assert isinstance(self.inner, AsyncTransport)
        checked: Future[Reply | Failure] = Future()

        def pass_on(answer: Future[Reply | Failure]) -> None:
            try:
                checked.set_result(self.checked(request, answer.result()))
            except BaseException as error:
                checked.set_exception(error)

        self.inner.post(site, request).add_done_callback(pass_on)
        return checked

    def checked(self, request: Request, answer: Reply | Failure) -> Reply | Failure:
        """The answer, or a failure where a reply holds what was not asked for or cannot be."""
        if isinstance(answer, Failure):
            return answer
        try:
            self._look_at(request, answer)
        except ValueError as error:
            return Failure(answer.site, answer.round, f"its answer was refused: {error}")
        return answer

    def _look_at(self, request: Request, reply: Reply) -> None:
        """Raise ValueError for the first part that does not fit."""
        names = targets(self.classes, getattr(request, "malignant", ()))
        sums, curves = self._closing(request, len(names)), None
        if isinstance(request, MeasureRequest):
            curves = checks.curves_check(names)
        figures, fitting = None, isinstance(request, AdaptRequest) and bool(request.temperatures)
        if not (isinstance(request, TemperatureRequest | ScalingRequest | HistogramRequest | StainRequest) or fitting):
            columns = self.columns if isinstance(request, MeasureRequest) else ()
            figures = self._figures(tuple(names), columns)
        _by_split(sums, request.splits)(reply.sums, "sums")
        _by_split(curves, request.splits)(reply.curves, "curves")
        if isinstance(request, AdaptRequest) and not fitting:
            _by_split(figures, (PLAIN, *request.remedies))(reply.metrics, "metrics")
        else:
            own = [name for name in reply.metrics if self.personal and _of_own_model(name, request.splits)]
            _by_split(figures, request.splits, own)(reply.metrics, "metrics")
        _look_at_masking(request, reply)
        checks.record({}, dict.fromkeys(PHASES, checks.number(0.0, LARGEST_SECONDS)))(reply.seconds, "seconds")

    def _figures(self, names: tuple[str, ...], columns: tuple[str, ...]) -> checks.Check:
        """What figures of a site may be; made once for all messages of a kind."""
        if (names, columns) not in self._figure_checks:
            self._figure_checks[names, columns] = checks.site_figures_check(self.classes, names, self.bins, columns)
        return self._figure_checks[names, columns]

    def _closing(self, request: Request, n_targets: int) -> checks.Check | None:
        """What a request asks for as sums of a split."""
        if isinstance(request, StainRequest):
            wanted = {"statistics": _statistics(request.method)} if request.method else {}
            return checks.record(wanted | ({"dyes": checks.maybe(_dyes)} if request.dyes else {}))
        if isinstance(request, TemperatureRequest) or (isinstance(request, AdaptRequest) and request.temperatures):
            return checks.record({"temperatures": checks.temperature_sums_check(len(request.temperatures))})
        if isinstance(request, ScalingRequest):
            points = len(request.points) // (2 * len(self.classes))
            return checks.record({"scaling": checks.scaling_sums_check(points, len(self.classes))})
        histograms = checks.histograms_check(n_targets)
        if isinstance(request, HistogramRequest):
            return checks.record({"histograms": histograms}, dict.fromkeys(UNITS, histograms))
        if isinstance(request, MeasureRequest):
            sums = checks.score_sums_check(len(self.classes), self.bins)
            parts = {"after": sums, "before": sums, "histograms": histograms, "min_count": checks.count}
            by_column = dict.fromkeys(self.columns, checks.by_value(checks.record(parts)))
            further = {"monitoring": moments_check(self.classes)} if request.monitoring else {}
            optional = dict.fromkeys(UNITS, checks.record(parts))
            if by_column:
                optional["subgroups"] = checks.record({}, by_column)
            return checks.record(parts | further, optional)
        return None


def _look_at_masking(request: Request, reply: Reply) -> None:
    """Keys and seeds, where they were asked for and nowhere else."""
    if isinstance(request, KeyRequest):
        wanted, further = {KEY}, set(SIGNED)
    elif isinstance(request, UnmaskRequest):
        wanted, further = {OWN}, {name for name in reply.masking if name.startswith(PAIR)}
    else:
        wanted, further = set(), set()
    if not wanted <= reply.masking.keys() <= wanted | further:
        raise ValueError("`masking` has other parts than were asked for")
    for name, text in reply.masking.items():
        if name not in SIGNED and not (len(text) == 2 * SEED and text.isalnum() and int(text, 16) >= 0):
            raise ValueError(f"`masking.{checks.brief(name)}` is no key or seed")


def _by_split(inner: checks.Check | None, splits: Sequence[str], further: Sequence[str] = ()) -> checks.Check:
    """A part of a reply by split: one entry for each that was asked for, or nothing where that part was not."""
    if inner is None:
        return checks.record({})
    return checks.record(dict.fromkeys(splits, inner), dict.fromkeys(further, inner))


def _statistics(method: str) -> checks.Check:
    """The numbers of a stain by that method, or None."""
    kind = type(FIXED[method])

    def check(value: Any, where: str) -> None:
        checks.listed(checks.number(0.0, LARGEST), len(FIXED[method].numbers))(value, where)
        if not isinstance(statistics_of(value), kind):
            raise ValueError(f"`{where}` is of another method")

    return checks.maybe(check)


def _dyes(value: Any, where: str) -> None:
    """The numbers of a site's dyes."""
    checks.listed(checks.number(-1.0, 1.0), NUMBERS)(value, where)
    DyeSpread.of(value)


def _of_own_model(name: Any, splits: Sequence[str]) -> bool:
    """Whether this is how a split measured with a model of the site's own is called."""
    split, _, model = str(name).partition("_")
    return split in splits and model.isidentifier() and model.isascii() and len(model) <= MODEL_NAME
