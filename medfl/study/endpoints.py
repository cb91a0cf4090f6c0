"""What a study asks: its endpoints and comparisons, and the word that an answer is called by."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from medfl.config import ConfigSection
from medfl.study.inference import LEVEL, Estimate
from medfl.study.run_figures import direction, run_figures
from medfl.study.statistics import ENOUGH_REPEATS

Word = Literal["better", "worse", "no worse", "equivalent", "undecided"]


class Endpoint(ConfigSection):
    """A figure of runs.csv and the question about it.

    On the scale `log` a method is compared by the ratio of its figure to the other's, and `margin` is a ratio above 1.
    """

    figure: str
    scale: Literal["identity", "log"] = "identity"
    test: Literal["difference", "equivalence"] = "difference"
    margin: float | None = Field(None, gt=0)

    @field_validator("figure")
    @classmethod
    def _comparable(cls, figure: str) -> str:
        columns = [column for column in run_figures() if direction(column)]
        if figure not in columns:
            raise ValueError(f"{figure!r} is no figure of which one way is better; there are {', '.join(columns)}")
        return figure

    @model_validator(mode="after")
    def _margin_of_its_scale(self) -> Endpoint:
        if self.test == "equivalence" and self.margin is None:
            raise ValueError(f"equivalence of {self.figure} needs a `margin`: the largest difference that is none")
        if self.scale == "log" and self.margin is not None and self.margin <= 1:
            raise ValueError(f"on the scale log `margin` is a ratio above 1 (1.1 is a tenth more), not {self.margin:g}")
        return self

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return 1 if direction(self.figure) == "higher" else -1

    @property
    def width(self) -> float | None:
        """The margin on the scale of the test."""
        return self.margin and (math.log(self.margin) if self.scale == "log" else self.margin)

    def moved(self, value: float | None, other: float | None) -> float | None:
        """What a method moved the figure by, on the scale of the test; None where a figure is missing, or has no
        logarithm."""
        if value is None or other is None:
            return None
        if self.scale == "log":
            return math.log(value / other) if value > 0 and other > 0 else None
        return value - other

    def shown(self, moved: float) -> float:
        """A number on the scale of the test as people read it: a difference, or a ratio."""
        return math.exp(moved) if self.scale == "log" else moved

    def p(self, estimate: Estimate) -> float:
        """Of the test that the endpoint states."""
        if self.test == "equivalence" and self.width is not None:
            return estimate.p_equivalence(self.width)
        return estimate.p_difference()


class Endpoints(ConfigSection):
    """What a study is judged by: few primary figures, whose tests are corrected for their number, and secondary ones,
    which suggest and decide nothing. A study may be secondary throughout."""

    primary: list[Endpoint] = Field(default=[])
    secondary: list[Endpoint] = Field(default=[])

    @model_validator(mode="after")
    def _each_once(self) -> Endpoints:
        if not self.primary and not self.secondary:
            raise ValueError("no figure is stated, neither `primary` nor `secondary`")
        figures = [(endpoint.figure, endpoint.scale) for endpoint in (*self.primary, *self.secondary)]
        if twice := [figure for figure, _ in set(figures) if figures.count((figure, _)) > 1]:
            raise ValueError(f"{twice[0]} stands twice; state it as primary or secondary, once")
        return self


class Comparisons(ConfigSection):
    """Which method is compared with which: [method, the other]."""

    primary: list[tuple[str, str]] = Field(default=[])
    secondary: list[tuple[str, str]] = Field(default=[])

    @model_validator(mode="after")
    def _any(self) -> Comparisons:
        if not self.primary and not self.secondary:
            raise ValueError("no pair is stated, neither `primary` nor `secondary`")
        return self

    def check_endpoints(self, endpoints: Endpoints | None) -> None:
        """Raise ValueError where there are none, or only these or those have primary ones."""
        if endpoints is None:
            raise ValueError("`comparisons` say what `endpoints` are compared between; state those too")
        if bool(endpoints.primary) != bool(self.primary):
            raise ValueError(
                "only one of `endpoints` and `comparisons` has a `primary`, so that nothing asked is primary; state it "
                "in both, or in neither"
            )


def word(endpoint: Endpoint, estimate: Estimate | None, p: float | None) -> tuple[Word, bool]:
    """What a result is called, and whether the test that the endpoint states says so.

    With the stated test at `p` (adjusted, where it is of a family): *equivalent* is a test of equivalence that rejects;
    *better* and *worse* are a test of a difference that rejects, by the side of the mean. Where it does not reject, the
    other words are looked for in this order, without adjustment: better or worse (the 95 % interval leaves out zero),
    equivalent (the 90 % interval lies inside the margins), no worse (it lies above the margin on the side of worse).
    Otherwise *undecided*, as with fewer than `ENOUGH_REPEATS` federations.

    Args:
        estimate: of what the method moved the figure by, on the scale of the test.
    """
    if estimate is None or p is None or estimate.n < ENOUGH_REPEATS:
        return "undecided", False
    gain = Estimate(estimate.n, endpoint.sign * estimate.mean, estimate.error)
    side: Word = "better" if gain.mean > 0 else "worse"
    if p <= LEVEL:
        return ("equivalent" if endpoint.test == "equivalence" else side), True
    if endpoint.test == "equivalence" and gain.p_difference() <= LEVEL:
        return side, False
    if endpoint.width is not None:
        if endpoint.test == "difference" and gain.p_equivalence(endpoint.width) <= LEVEL:
            return "equivalent", False
        if gain.p_no_worse(endpoint.width) <= LEVEL:
            return "no worse", False
    return "undecided", False
