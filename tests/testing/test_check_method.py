"""The battery for methods: every built-in method passes it, and each of its checks fails where it should."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.method import Method, number
from medfl.methods.core.registry import built_in_methods
from medfl.testing import check_method

GLOBAL: dict[str, torch.Tensor] = {}


@pytest.mark.parametrize("name", list(built_in_methods()))
def test_every_method_of_the_package_passes(name):
    check_method(built_in_methods()[name], **({"seeded": True} if name == "dp" else {}))  # else it draws from no seed


@dataclass(frozen=True)
class Pull(Method):
    """Each step also pulls the weights back towards the received model."""

    name: ClassVar[str] = "pull"
    neutral: ClassVar[Mapping[str, Any] | None] = {"mu": 0.0}
    mu: float = 0.01

    def __post_init__(self):
        number(self.mu, "mu", 0.0, math.inf)

    def modify_gradient(self, local):
        local.gradient.add_(local.model.vector - local.received, alpha=self.mu)


def test_a_third_partys_method_passes():
    check_method(Pull)


@dataclass(frozen=True)
class Unchecked(Pull):
    """Takes any value."""

    name: ClassVar[str] = "unchecked"

    def __post_init__(self):
        pass


@dataclass(frozen=True)
class NotNeutral(Pull):
    """Pulls also where it says that it does not."""

    name: ClassVar[str] = "not_neutral"

    def modify_gradient(self, local):
        local.gradient.add_(local.model.vector, alpha=self.mu + 0.1)


@dataclass(frozen=True)
class Random(Pull):
    """Draws from no seed."""

    name: ClassVar[str] = "random"
    neutral: ClassVar[None] = None

    def modify_gradient(self, local):
        local.gradient.add_(torch.randn_like(local.gradient), alpha=0.01)


@dataclass(frozen=True)
class Forgetful(Pull):
    """Keeps what should be saved in a variable of the module."""

    name: ClassVar[str] = "forgetful"
    neutral: ClassVar[None] = None

    def aggregate(self, server, mean):
        if server.round == 0:
            GLOBAL["sum"] = mean.clone()
        elif server.round == 1:
            GLOBAL["sum"] += mean
            return GLOBAL["sum"].clone()
        elif server.round == 2:
            return mean + GLOBAL.pop("sum", 0)
        return mean


@dataclass(frozen=True)
class SendsOther(Pull):
    """Says that it sends five numbers, and sends them as what no message carries."""

    name: ClassVar[str] = "sends_other"
    neutral: ClassVar[None] = None

    def make_update(self, local):
        local.extra_up["sends_other"] = torch.zeros(5, dtype=torch.float64)


@dataclass(frozen=True)
class Traces(Pull):
    """Writes into the state of a round that may not be accepted."""

    name: ClassVar[str] = "traces"
    neutral: ClassVar[None] = None

    def make_update(self, local):
        count = local.state.get("traces", torch.ones(1))
        local.displacement = (local.start - local.model.vector) * float(count)
        local.new_state["traces"] = count.mul_(0.5)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Unchecked, "takes nan for `mu`"),
        (NotNeutral, "is not FedAvg"),
        (Random, "two results for one seed"),
        (Forgetful, "stopped after two rounds"),
        (SendsOther, "no round of sends_other counts|travel as bytes|is of the wrong kind"),
        (Traces, "leaves its trace"),
    ],
)
def test_what_is_wrong_is_told(kind, sentence):
    with pytest.raises((AssertionError, MedflError, ValueError), match=sentence):
        check_method(kind)
