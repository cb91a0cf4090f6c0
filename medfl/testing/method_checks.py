"""What every method of federated learning has to stand, whatever it does: the battery behind `check_method`.

Each check is a function of a `Case`; it raises AssertionError with one sentence. An error that the method itself raises
passes through as it is.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfl.engines.remote.codec import BadMessage
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.method import WEIGHTS, Method
from medfl.testing.toy_federation import ROUNDS, ToyRun, sites_needed, toy_run

PAPER = re.compile(r"|arXiv:\d{4}\.\d{4,5}|doi:10\.\S+")
TOLERANCE = 1e-6  # of a weight, where a neutral setting takes another way to the same numbers
WRONG: Mapping[type, tuple[Any, ...]] = {
    bool: ("perhaps", 2, [1]),
    int: (float("nan"), float("-inf"), "many", 1.5, [1]),
    float: (float("nan"), float("-inf"), "many", [1]),
    str: ("no such choice", 3, [1]),
    type(None): (float("nan"), "no such choice", [1]),
}
"""By the type of a parameter's default: values that no such parameter may take."""


@dataclass(frozen=True)
class Case:
    """A method class with the parameters under which it is checked."""

    kind: type[Method]
    parameters: Mapping[str, Any]

    def chain(self) -> MethodChain:
        """The method alone, made anew, so that nothing is remembered in an object."""
        return MethodChain([self.kind(**self.parameters)])

    @cached_property
    def sites(self) -> int:
        """How many sites the toy federation has."""
        return sites_needed(self.chain())

    @cached_property
    def whole(self) -> ToyRun:
        """`ROUNDS` rounds at one go, each of them looked at."""
        run = toy_run(self.chain())
        for _ in range(ROUNDS):
            check_round(self, run)
        return run

    def require(self, condition: bool, sentence: str) -> None:
        """Raise AssertionError with the sentence, and whose it is, unless the condition holds."""
        if not condition:
            raise AssertionError(f"{getattr(self.kind, 'name', self.kind.__name__)}: {sentence}")

    def require_equal(self, one: ToyRun, other: ToyRun, sentence: str, first: int = 0) -> None:
        """Raise AssertionError unless two runs are in the same state, bit for bit, and did so in the same rounds, from
        round number `first` of the first one on."""
        self.require(one.records[first:] == other.records, f"{sentence}: the records of the rounds differ")
        ours, theirs = dict(_values(one)), dict(_values(other))
        for name in sorted(ours.keys() ^ theirs.keys()):
            self.require(False, f"{sentence}: only one of them has {name}")
        for name, value in ours.items():
            same = torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name]
            self.require(same, f"{sentence}: {name} differs")


def _values(run: ToyRun) -> Iterator[tuple[str, Any]]:
    """All that is carried to the next round, by name."""
    state = run.state
    yield from (("the global model", state.weights), ("the global buffers", state.buffers))
    yield "json_state at the server", state.json_state
    yield from ((f"`{name}` at the server", tensor) for name, tensor in state.tensors.items())
    for site in run.sites:
        yield from ((f"`{name}` at {site}", tensor) for name, tensor in run.site_state(site).items())


def check_declaration(case: Case) -> None:
    """The class says what it is: a frozen dataclass with a name, a paper or none, and promises of the right kind."""
    kind = case.kind
    parameters = getattr(kind, "__dataclass_params__", None)
    own = "__dataclass_fields__" in vars(kind) and parameters is not None and parameters.frozen
    case.require(own, "the class has no `@dataclass(frozen=True)` of its own, so its parameters are not known")
    case.require("name" in vars(kind) and kind.name.isidentifier(), "the class needs a `name` that is one word")
    case.require(bool((kind.__doc__ or "").strip()), "the class needs a docstring; its first line is shown in lists")
    case.require(
        PAPER.fullmatch(kind.paper) is not None, f'`paper` is "arXiv:...", "doi:..." or "", not {kind.paper!r}'
    )
    lengths = kind.sends.values()
    case.require(
        all(length == WEIGHTS or (isinstance(length, int) and length > 0) for length in lengths),
        "`sends` gives each vector's number of values, or WEIGHTS for as many as the model has",
    )
    names = {field.name for field in dataclasses.fields(kind)}
    case.require(
        names >= set(kind.neutral or ()), f"`neutral` names what is no parameter; it has {', '.join(names) or 'none'}"
    )
    bytes_ = kind(**case.parameters).scratch_bytes(steps=10, padded=1000)
    case.require(isinstance(bytes_, int) and bytes_ >= 0, f"`scratch_bytes` is a number of bytes, not {bytes_!r}")


def check_parameters(case: Case) -> None:
    """An unknown parameter and one of a wrong kind are refused, with one sentence that names it."""
    for field in dataclasses.fields(case.kind):
        for value in WRONG.get(type(field.default), ()):
            try:
                case.kind(**{**case.parameters, field.name: value})
            except (TypeError, ValueError) as error:
                named = field.name in str(error) and "\n" not in str(error)
                case.require(named, f"a wrong `{field.name}` is refused without naming it in one sentence: {error}")
            else:
                case.require(False, f"`{field.name}` may be {value!r}; check it in `__post_init__`")


def check_round(case: Case, run: ToyRun) -> None:
    """A round counts, nothing fails, all stays finite, and what is carried is replaced and never written to."""
    before = [(name, value, value.clone()) for name, value in _values(run) if isinstance(value, Tensor)]
    record = run.rounds(1).records[-1]
    failures = "; ".join(f"{failure['site']}: {failure['reason']}" for failure in record["failures"])
    case.require(not failures, f"sites failed in round {record['round']}: {failures}")
    case.require(record["counted"], f"round {record['round']} of {case.sites} sites does not count")
    for name, value, copy in before:
        sentence = f"{name} was written to in round {record['round']}; keep a new tensor under its name instead"
        case.require(torch.equal(value, copy), sentence)
    for name, value in _values(run):
        finite = not isinstance(value, Tensor) or bool(torch.isfinite(value.float()).all())
        case.require(finite, f"{name} is not finite after round {record['round']}")


def check_neutral(case: Case) -> None:
    """With its neutral parameters it is FedAvg."""
    if case.kind.neutral is None:
        return
    chain = MethodChain([case.kind(**{**case.parameters, **case.kind.neutral})])
    ours, plain = (toy_run(chain, plain=plain).rounds(2).state for plain in (False, True))
    pairs = ((ours.weights, plain.weights), (ours.buffers, plain.buffers))
    apart = max(float((one - other).abs().max()) for one, other in pairs if one.numel())
    case.require(
        apart <= TOLERANCE,
        f"with {dict(case.kind.neutral)} it should be FedAvg, and after two rounds the model is {apart:.2g} away",
    )


def check_resume(case: Case) -> None:
    """Two rounds, a checkpoint, and two more are four: what it keeps is in the states that are saved."""
    with tempfile.TemporaryDirectory() as folder:
        first = toy_run(case.chain()).rounds(2)
        first.save(Path(folder))
        whole = case.whole  # run in between, so that what a module remembers is not what the first two rounds left
        case.require(first.records == whole.records[:2], "two runs from one seed are not the same")
        resumed = toy_run(case.chain(), resume=Path(folder)).rounds(ROUNDS - 2)
    case.require_equal(whole, resumed, "2 + 2 rounds are not 4; something is kept outside the saved states", 2)


def check_codec(case: Case) -> None:
    """Messages pass through the engines' codec, and come out as they went in."""
    try:
        run = toy_run(case.chain(), through_codec=True).rounds(ROUNDS)
    except BadMessage as error:
        raise AssertionError(f"{case.kind.name}: a message cannot travel between processes: {error}") from None
    case.require_equal(case.whole, run, "messages that travel between processes give another result")


def check_bytes(case: Case) -> None:
    """Replies carry what `sends` declares and no more; the bytes in the records are those of the messages."""
    run, sends = case.whole, case.kind.sends
    length = run.state.weights.numel()
    wanted = {name: length if values == WEIGHTS else values for name, values in sends.items()}
    for reply in run.transport.replies:
        sent = {name: vector.numel() for name, vector in reply.extra.items()}
        case.require(sent == wanted, f"a reply carries {sent or 'nothing'} beside the update, `sends` says {wanted}")
    for site in run.sites:
        entries = [record["sites"][site] for record in run.records if site in record["sites"]]
        flight = run.state.in_flight.get(site)
        on_the_way = flight.bytes_up if flight else 0
        for direction, counted, dense in (
            ("down", sum(entry["bytes_down"] for entry in entries), run.transport.down.get(site, 0)),
            ("up", sum(entry["bytes_up"] for entry in entries) + on_the_way, run.transport.up.get(site, 0)),
        ):
            right = 0 < counted <= dense if run.chain.acts("wire_bytes") else counted == dense
            case.require(right, f"the records count {counted:,} bytes {direction} at {site}, and {dense:,} were sent")


def check_lost_reply(case: Case) -> None:
    """A reply that is lost is as if the site had not been asked."""
    lost = {(0, "site-1"), (1, "site-0")}
    unheard, absent = (toy_run(case.chain(), lost=lost, absent=away).rounds(3) for away in (False, True))
    case.require_equal(unheard, absent, "a lost reply leaves a trace")


def check_lost_round(case: Case) -> None:
    """A round that does not count is as if nobody had replied."""
    everybody = {(1, f"site-{i}") for i in range(case.sites)}
    one, none = (toy_run(case.chain(), lost=lost).rounds(2) for lost in (everybody - {(1, "site-0")}, everybody))
    if not one.records[1]["counted"]:
        one.records = none.records  # who was heard is what they differ in
        case.require_equal(one, none, "a round that does not count leaves a trace")


def check_partial_participation(case: Case) -> None:
    """Where sites are drawn, the state of one that did not train stays as it was."""
    run = toy_run(case.chain(), sites_per_round=case.sites - 1)
    for _ in range(2):
        before = {site: dict(run.site_state(site)) for site in run.sites}
        record = run.rounds(1).records[-1]
        for site, state in before.items():
            if "samples" not in record["sites"].get(site, {}):
                after = run.site_state(site)
                same = state.keys() == after.keys() and all(torch.equal(state[name], after[name]) for name in state)
                case.require(same, f"the state of {site} changed in a round in which it did not train")
        finite = bool(torch.isfinite(run.state.weights).all())
        case.require(finite, "where sites are drawn the model is not finite")


def check_blocks(case: Case) -> None:
    """Where it says that it is elementwise, gradients that come in blocks give the same."""
    if case.kind.elementwise:
        run = toy_run(case.chain(), block=100).rounds(ROUNDS)
        sentence = "it is declared `elementwise`, and gradients that come in blocks give another result"
        case.require_equal(case.whole, run, sentence)


CHECKS: tuple[Callable[[Case], None], ...] = (
    *(check_declaration, check_parameters, check_neutral, check_resume, check_codec, check_bytes),
    *(check_lost_reply, check_lost_round, check_partial_participation, check_blocks),
)


def check_method(kind: type[Method], **parameters: Any) -> None:
    """Check a method in a federation of toy sites, one or two seconds long.

    It must be declared as `medfl.methods.core.method.Method` asks, refuse wrong parameters, run to finite and
    repeatable figures, be FedAvg in its neutral setting where it declares one, save and resume bit for bit, pass
    through the engines' codec, send what it declares and what the records count, leave no trace of a lost reply or of
    a round that does not count, work where some sites are drawn, and on blocks of a gradient where it says so.

    Args:
        kind: the class.
        parameters: under which it is checked; a method that draws from the system's entropy needs to be seeded.

    Raises:
        AssertionError: what it fails, in one sentence.
        Exception: whatever the method raises itself.
    """
    case = Case(kind, parameters)
    for check in CHECKS:
        check(case)
