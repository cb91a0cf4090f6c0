"""The battery that every built-in method passes, for a method of your own: `check_method(MyMethod)`."""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfl.federation.server_state import ServerState
from medfl.messages import reply_bytes
from medfl.methods.core.method import Method
from medfl.testing.toy_federation import ToyFederation

LOST = (1, "site-3")  # (round, site) whose reply is lost


def check_method(kind: type[Method], **parameters: Any) -> None:
    """Check what every method must hold, on a federation of five small sites; takes a second or two.

    Args:
        kind: the method's class.
        parameters: what it is made with; by default its own defaults.

    Raises:
        AssertionError: a sentence on what does not hold.
    """
    method = kind(**parameters)
    _declares_itself(kind)
    _refuses_bad_parameters(kind, parameters)
    if kind.neutral is not None:
        _neutral_is_fedavg(kind, kind.neutral)
    whole = _trains(method)
    _repeats_itself_as_bytes(method, whole)
    _counts_its_bytes(method, whole)
    _resumes(method, whole)
    _forgets_a_lost_reply(method)
    _stands_absent_sites(method)


def _declares_itself(kind: type[Method]) -> None:
    assert isinstance(getattr(kind, "name", None), str), f"{kind.__name__} has no `name`, which pipelines call it by"
    parameters = getattr(kind, "__dataclass_params__", None)
    assert parameters is not None, f"{kind.name} is no dataclass"
    assert parameters.frozen, f"{kind.name} is not frozen: a method is its parameters, and state lies in the contexts"
    assert (kind.__doc__ or "").strip(), f"{kind.name} has no docstring, whose first line `medfl methods` shows"


def _refuses_bad_parameters(kind: type[Method], parameters: Mapping[str, Any]) -> None:
    """A pipeline's values arrive as they stand in the file, so the class itself has to look at them."""
    try:
        kind(**parameters, no_such_parameter=1)  # type: ignore[call-arg]
    except TypeError:
        pass
    else:
        raise AssertionError(f"{kind.name} takes a parameter that it does not have")
    for field in dataclasses.fields(kind):
        for bad in (math.nan, -math.inf, "no such word", [1]):
            try:
                kind(**{**parameters, field.name: bad})
            except (ValueError, TypeError):
                continue
            raise AssertionError(f"{kind.name} takes {bad!r} for `{field.name}`; check it in `__post_init__`")


@functools.cache
def _fedavg() -> ServerState:
    return ToyFederation().run(2)


def _neutral_is_fedavg(kind: type[Method], neutral: Mapping[str, Any]) -> None:
    plain, state = _fedavg(), ToyFederation([kind(**neutral)]).run(2)
    for ours, theirs in ((state.weights, plain.weights), (state.buffers, plain.buffers)):
        near = torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert near, f"{kind.name} with {dict(neutral)} is not FedAvg"


def _trains(method: Method) -> ToyFederation:
    whole = ToyFederation([method])
    whole.run(4)
    assert any(record["counted"] for record in whole.records), f"no round of {method.name} counts"
    assert torch.isfinite(whole.state.weights).all(), f"{method.name} leaves weights that are not finite"
    return whole


def _counts_its_bytes(method: Method, whole: ToyFederation) -> None:
    if type(method).wire_bytes is not Method.wire_bytes:
        return  # it says itself how tightly its messages could be packed
    sent = {(r.round, r.site): reply_bytes(r) for r in whole.transport.replies if r.update is not None}
    for record in whole.records:
        for name, entry in record["sites"].items():
            if entry["bytes_up"]:
                expected = sent[record["round"] - entry.get("age", 0), name]
                assert entry["bytes_up"] == expected, f"{method.name} sends {expected} bytes and counts others"


def _resumes(method: Method, whole: ToyFederation) -> None:
    first, second = ToyFederation([method]), ToyFederation([method])
    first.run(2)
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder))
        second.load(Path(folder))
        second.run(2)
    _same(second.state, whole.state, f"{method.name} stopped after two rounds and continued is not four rounds")


def _repeats_itself_as_bytes(method: Method, whole: ToyFederation) -> None:
    far = ToyFederation([method], through_bytes=True)
    far.run(4)
    _same(
        far.state, whole.state, f"{method.name} gives two results for one seed, or not where messages travel as bytes"
    )


def _forgets_a_lost_reply(method: Method) -> None:
    """A site whose reply is lost must be as if it had never been asked."""
    lost, absent = ToyFederation([method], lost={LOST}), ToyFederation([method], absent={LOST})
    lost.run(3)
    absent.run(3)
    _same(lost.state, absent.state, f"a lost reply leaves its trace in {method.name}")


def _stands_absent_sites(method: Method) -> None:
    some = ToyFederation([method], sites_per_round=max(3, method.min_replies))
    some.run(2)
    assert torch.isfinite(some.state.weights).all(), f"{method.name} does not stand sites that take no part in a round"


def _same(one: ServerState, other: ServerState, sentence: str) -> None:
    """Equal bit for bit: the model, and what the method keeps at the server."""
    pairs: list[tuple[Tensor | None, Tensor | None]] = [(one.weights, other.weights), (one.buffers, other.buffers)]
    assert one.tensors.keys() == other.tensors.keys(), sentence
    pairs += [(one.tensors[name], other.tensors[name]) for name in one.tensors]
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs), sentence
    assert one.json_state == other.json_state, sentence
