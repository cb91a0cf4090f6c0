"""What goes with what: the contradictions between two methods of a chain, by what they declare and where they act.

A rule names no method and no module, so it holds for a third party's method as for a built-in one. What only one method
knows it says itself, in `Method.check_compatible`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medfl.methods.core.method import Method

UNPROTECTED = (
    *("async_schedule", "before_training", "reject", "transform_reply", "aggregation_weight", "on_reply"),
    *("aggregate", "aggregate_buffers", "on_validation"),
)
"""What may not happen beside a private method: to move the start, to act on what single sites sent, or on figures
without noise."""


@dataclass(frozen=True)
class Rule:
    """A contradiction that `one` method has with an `other`, and the sentence that says so and what to do.

    The sentence may name `{one}`, `{other}`, and what `{one}` merges, `{merges}`.
    """

    contradicts: Callable[[Method, Method], bool]
    sentence: str

    def reason(self, one: Method, other: Method) -> str:
        """The sentence for two methods."""
        return self.sentence.format(one=one.name, other=other.name, merges=one.merges_itself)


def _is_known_to_hold(one: Method, other: Method) -> bool:
    return {"": True, "sub-models": other.submodel_safe, "late replies": other.async_safe}[one.merges_itself]


def _exposes(other: Method) -> bool:
    return bool(other.sends) or any(other.acts_in(phase) for phase in UNPROTECTED)


def _moves_the_gradients_point(method: Method) -> bool:
    return method.acts_in("perturb") or method.acts_in("ascend")


RULES = (
    Rule(
        lambda one, other: one.private and other.local_norms,
        "under {other} sites send normalisation layers that {one} does not cover; leave one of them out",
    ),
    Rule(
        lambda one, other: one.private and _exposes(other),
        "{other} starts from another point, sends or weighs more than the one update that {one} clips, or acts on what "
        "{one} does not cover, so the guarantee would not hold; leave one of them out",
    ),
    Rule(
        lambda one, other: not _is_known_to_hold(one, other),
        "{one} merges {merges} by rules of its own, and {other} is not known to hold under them; leave one of them out",
    ),
    Rule(
        lambda one, other: one.rescales_updates and other.replaces_optimiser,
        "{one} counts steps of SGD, which {other} replaces; leave one of them out",
    ),
    Rule(
        lambda one, other: one.rescales_updates and other.starts_elsewhere,
        "{one} rescales w - e as steps taken, but under {other} sites do not start from w, the model they received; "
        "leave one of them out",
    ),
    Rule(
        lambda one, other: one.owns_start and other.starts_elsewhere,
        "{one} and {other} both decide where a site starts; keep one of them",
    ),
    Rule(
        lambda one, other: one.replaces_optimiser and other.replaces_optimiser,
        "{one} and {other} both replace the optimiser; keep one of them",
    ),
    Rule(
        lambda one, other: one.acts_in("modify_logits") and other.acts_in("modify_logits"),
        "{one} and {other} both change the logits that the loss sees; keep one of them",
    ),
    Rule(
        lambda one, other: _moves_the_gradients_point(one) and _moves_the_gradients_point(other),
        "{one} and {other} both move the point of the gradient; keep one of them",
    ),
    Rule(
        lambda one, other: one.acts_in("server_step") and other.acts_in("server_step"),
        "{one} and {other} are both optimisers of the server; keep one of them",
    ),
    Rule(
        lambda one, other: one.replaces_mean and other.replaces_mean,
        "{one} and {other} both replace the mean; keep one of them",
    ),
    Rule(
        lambda one, other: one.replaces_mean and other.acts_in("aggregation_weight"),
        "{other} is made for a weighted mean of updates, which {one} does not take; leave one of them out",
    ),
    Rule(
        lambda one, other: one.guards_updates and other.rescales_updates,
        "{other} divides an update by the steps its site says it took, so what {one} has shortened would not stay so; "
        "leave one of them out",
    ),
    Rule(
        lambda one, other: one.guards_updates and bool(other.sends),
        "{other} sums further vectors as sites send them, so {one} would guard updates and leave that way open; leave "
        "one of them out",
    ),
)


def check_pair(one: Method, other: Method) -> None:
    """Raise ValueError with one sentence, who contradicts whom, why and what to do, if `one` does not stand `other`.

    A pair may share a chain if neither refuses the other.
    """
    one.check_compatible(other)
    for rule in RULES:
        if rule.contradicts(one, other):
            raise ValueError(rule.reason(one, other))
