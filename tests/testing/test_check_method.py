"""The battery of checks: every built-in method passes it, and for each check there is a method that fails it."""

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.method import WEIGHTS, Method, number
from medfl.methods.core.registry import built_in_methods
from medfl.site.evaluator import SiteDiverged
from medfl.testing import check_method
from medfl.testing import method_checks as checks
from tests.paths import ROOT

PARAMETERS = {"dp": {"seeded": True}, "lips": {"period": 2}}
METHODS = {name: kind for name, kind in built_in_methods().items() if not getattr(kind, "arm", "")}


@pytest.mark.parametrize("name", METHODS)
def test_every_built_in_method_passes(name):
    check_method(METHODS[name], **PARAMETERS.get(name, {}))


def test_the_method_of_the_documentation_passes_its_test():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    method, test = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    code = "".join(line for line in (method + test).splitlines(True) if not line.startswith("from my_package"))
    assert len(method.splitlines()) <= 25
    names = {"__name__": "documented"}
    exec(compile(code, "docs/methods.md", "exec"), names)
    names["test_pull"]()


# ------------------------------------------------------------------------------------------- methods that are broken


class NoDataclass(Method):
    """Its parameters are not known."""

    name: ClassVar[str] = "broken"
    length: float = 1.0


@dataclass(frozen=True)
class NoName(Method):
    """Nothing to call it by."""


@dataclass(frozen=True)
class NoPaper(Method):
    """A paper that nobody finds."""

    name: ClassVar[str] = "broken"
    paper: ClassVar[str] = "Smith et al. 2020"


@dataclass(frozen=True)
class NoLength(Method):
    """A vector of a length that is none."""

    name: ClassVar[str] = "broken"
    sends: ClassVar[dict[str, int]] = {"broken.vector": 0}


@dataclass(frozen=True)
class NeutralTypo(Method):
    """A neutral setting of another method."""

    name: ClassVar[str] = "broken"
    neutral: ClassVar[dict[str, float]] = {"mu": 0.0}
    strength: float = 1.0


@dataclass(frozen=True)
class Unchecked(Method):
    """Takes whatever it is given."""

    name: ClassVar[str] = "broken"
    strength: float = 1.0


@dataclass(frozen=True)
class Unnamed(Unchecked):
    """Refuses without saying what."""

    def __post_init__(self):
        if self.strength != 1.0:
            raise ValueError("wrong")


@dataclass(frozen=True)
class Overflowing(Method):
    """Ends where nobody can go on."""

    name: ClassVar[str] = "broken"

    def make_update(self, local):
        local.displacement = (local.start - local.model.vector) * 1e30


@dataclass(frozen=True)
class KeepsInfinity(Method):
    """Keeps what is not finite."""

    name: ClassVar[str] = "broken"

    def make_update(self, local):
        local.new_state["broken.state"] = torch.tensor([torch.inf])


@dataclass(frozen=True)
class WritesToState(Method):
    """Adds to its vector at the server in place."""

    name: ClassVar[str] = "broken"

    def server_step(self, server, update):
        server.tensors.setdefault("broken.sum", torch.zeros_like(update)).add_(update)
        return update


@dataclass(frozen=True)
class NeverCounts(Method):
    """Takes no reply."""

    name: ClassVar[str] = "broken"

    def reject(self, server, reply):
        return "it is not to my liking"


@dataclass(frozen=True)
class NotNeutral(Method):
    """Is not FedAvg where it says so."""

    name: ClassVar[str] = "broken"
    neutral: ClassVar[dict[str, float]] = {"share": 1.0}
    share: float = 0.5

    def __post_init__(self):
        number(self.share, "share", 0.0, 1.0)

    def make_update(self, local):
        local.displacement = 0.9 * self.share * (local.start - local.model.vector)


@dataclass(frozen=True)
class Unseeded(Method):
    """Draws from nowhere."""

    name: ClassVar[str] = "broken"

    def server_step(self, server, update):
        return update * (1 + 0.01 * torch.rand(()))


@dataclass(frozen=True)
class RemembersInTheObject(Method):
    """Keeps its momentum where no checkpoint sees it."""

    name: ClassVar[str] = "broken"

    def server_step(self, server, update):
        memory = vars(self).setdefault("memory", [])
        memory.append(update.clone())
        return sum(memory) / len(memory)


MEMORY: dict[str, torch.Tensor] = {}


@dataclass(frozen=True)
class RemembersInTheModule(Method):
    """Keeps a vector in a variable of the module, and begins anew in round 0."""

    name: ClassVar[str] = "broken"

    def server_step(self, server, update):
        last = torch.zeros_like(update) if server.round == 0 else MEMORY["last"]
        MEMORY["last"] = update.clone()
        return update + 0.1 * last


@dataclass(frozen=True)
class SendsDoubles(Method):
    """Sends numbers that the codec does not know."""

    name: ClassVar[str] = "broken"

    def send(self, server, site):
        return {"broken.vector": torch.zeros(3, dtype=torch.float64)}


@dataclass(frozen=True)
class SaysNothing(Method):
    """Sends more than it declares."""

    name: ClassVar[str] = "broken"

    def make_update(self, local):
        local.extra_up["broken.vector"] = torch.zeros(3)


@dataclass(frozen=True)
class SendsNothing(Method):
    """Declares more than it sends."""

    name: ClassVar[str] = "broken"
    sends: ClassVar[dict[str, int]] = {"broken.vector": WEIGHTS}


@dataclass(frozen=True)
class ForFree(Method):
    """Counts no bytes."""

    name: ClassVar[str] = "broken"

    def wire_bytes(self, server, site, direction, dense):
        return 0 if direction == "up" else dense


@dataclass(frozen=True)
class CommitsAtTheSite(Method):
    """Changes its state before the server has taken the reply."""

    name: ClassVar[str] = "broken"

    def make_update(self, local):
        local.state["broken.rounds"] = local.state.get("broken.rounds", torch.zeros(1)) + 1


@dataclass(frozen=True)
class WritesAtTheSite(Method):
    """Writes into a tensor of a state that is not its own yet."""

    name: ClassVar[str] = "broken"

    def make_update(self, local):
        local.new_state["broken.share"] = local.state.get("broken.share", torch.ones(1)).mul_(0.5)


@dataclass(frozen=True)
class CommitsAtOnce(Method):
    """Changes the server's state before the round counts."""

    name: ClassVar[str] = "broken"

    def on_reply(self, server, reply):
        server.json_state["broken"] = server.json_state.get("broken", 0) + 1


@dataclass(frozen=True)
class ChangesWhenMeasured(Method):
    """Changes a site's state where it is only measured."""

    name: ClassVar[str] = "broken"

    def personal_models(self, state, received):
        state["broken.measured"] = torch.ones(1)
        return {}


@dataclass(frozen=True)
class WholeInBlocks(Method):
    """Shortens the gradient to a length that it takes from the block in hand."""

    name: ClassVar[str] = "broken"
    elementwise: ClassVar[bool] = True

    def modify_gradient(self, local):
        local.gradient.div_(1 + local.gradient.norm())


@dataclass(frozen=True)
class Insatiable(Method):
    """Needs more sites than there are."""

    name: ClassVar[str] = "broken"

    @property
    def min_replies(self):
        return 100


BROKEN = [
    (checks.check_declaration, NoDataclass, r"no `@dataclass\(frozen=True\)` of its own"),
    (checks.check_declaration, NoName, "needs a `name`"),
    (checks.check_declaration, NoPaper, "`paper` is .* not 'Smith et al. 2020'"),
    (checks.check_declaration, NoLength, "`sends` gives each vector's number of values"),
    (checks.check_declaration, NeutralTypo, "`neutral` names what is no parameter; it has strength"),
    (checks.check_parameters, Unchecked, "`strength` may be nan; check it in `__post_init__`"),
    (checks.check_parameters, Unnamed, "a wrong `strength` is refused without naming it"),
    (checks.check_resume, KeepsInfinity, "`broken.state` at site-0 is not finite after round 0"),
    (checks.check_resume, WritesToState, "`broken.sum` at the server was written to in round 1"),
    (checks.check_resume, NeverCounts, "sites failed in round 0: site-0: it is not to my liking"),
    (checks.check_neutral, NotNeutral, "with {'share': 1.0} it should be FedAvg"),
    (checks.check_resume, Unseeded, "two runs from one seed are not the same"),
    (checks.check_resume, RemembersInTheObject, "2 [+] 2 rounds are not 4.*the global model differs|records"),
    (checks.check_resume, RemembersInTheModule, "2 [+] 2 rounds are not 4"),
    (checks.check_codec, SendsDoubles, "cannot travel between processes.*broken.vector"),
    (checks.check_bytes, SaysNothing, "a reply carries {'broken.vector': 3} beside the update, `sends` says {}"),
    (checks.check_bytes, SendsNothing, "`broken.vector` has not been sent"),
    (checks.check_bytes, ForFree, "the records count 0 bytes up at site-0, and"),
    (checks.check_lost_reply, CommitsAtTheSite, "a lost reply leaves a trace: .*`broken.rounds` at site-"),
    (checks.check_lost_reply, WritesAtTheSite, "a lost reply leaves a trace: .*"),
    (checks.check_resume, WritesAtTheSite, "`broken.share` at site-0 was written to in round 1"),
    (checks.check_lost_round, CommitsAtOnce, "a round that does not count leaves a trace: json_state at the server"),
    (checks.check_partial_participation, ChangesWhenMeasured, "changed in a round in which it did not train"),
    (checks.check_blocks, WholeInBlocks, "declared `elementwise`, and gradients that come in blocks give another"),
]


@pytest.mark.parametrize(("check", "kind", "sentence"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_method_fails(check, kind, sentence):
    with pytest.raises(AssertionError, match=sentence) as caught:
        check(checks.Case(kind, {}))
    assert "\n" not in str(caught.value)


def test_each_check_is_shown_to_fail():
    assert {check for check, *_ in BROKEN} == set(checks.CHECKS)


def test_the_battery_runs_the_checks_and_says_whose_failure_it_is():
    with pytest.raises(AssertionError, match=r"^broken: a round that does not count"):
        check_method(CommitsAtOnce)


def test_an_error_of_the_method_passes_through():
    with pytest.raises(MedflError, match="broken needs more than 12 sites"):
        check_method(Insatiable)
    with pytest.raises(SiteDiverged, match="the update is not finite in round 0"):
        check_method(Overflowing)
