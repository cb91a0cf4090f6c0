"""What goes with what: every pair of built-in methods as lists of names judged it, and third parties' methods."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from medfl.methods.core.compatibility import RULES, check_pair
from medfl.methods.core.method import WEIGHTS, Method
from medfl.methods.core.method_table import compatible
from medfl.methods.core.registry import built_in_methods, method_class

APART = """
dp: fedasync fedbn fedbuff fedgmr fednova krum lips median norm_clip norm_guard pflalign scaffold trimmed_mean
ecgr:
fedadagrad: fedadam fedasync fedavgm fedbuff fedyogi
fedadam: fedadagrad fedasync fedavgm fedbuff fedyogi
fedasync: dp fedadagrad fedadam fedavgm fedbuff fedgmr fednova fedyogi finetune krum lips median pflalign trimmed_mean
fedavgm: fedadagrad fedadam fedasync fedbuff fedyogi
fedbn: dp fednova pflalign
fedbuff: dp fedadagrad fedadam fedasync fedavgm fedgmr fednova fedyogi finetune krum lips median pflalign trimmed_mean
fedgmr: dp fedasync fedbuff fednova finetune krum lips median norm_clip norm_guard pflalign scaffold trimmed_mean
fednova: dp fedasync fedbn fedbuff fedgmr krum lips median norm_clip pflalign trimmed_mean
fedprox:
fedyogi: fedadagrad fedadam fedasync fedavgm fedbuff
finetune: fedasync fedbuff fedgmr
krum: dp fedasync fedbuff fedgmr fednova median scaffold trimmed_mean
lips: dp fedasync fedbuff fedgmr fednova pflalign
median: dp fedasync fedbuff fedgmr fednova krum scaffold trimmed_mean
norm_clip: dp fedgmr fednova scaffold
norm_guard: dp fedgmr
pflalign: dp fedasync fedbn fedbuff fedgmr fednova lips
scaffold: dp fedgmr krum median norm_clip trimmed_mean
trimmed_mean: dp fedasync fedbuff fedgmr fednova krum median scaffold
"""
KNOWN = {name: set(others.split()) for name, _, others in (line.partition(":") for line in APART.strip().splitlines())}


@pytest.mark.parametrize("name", KNOWN)
def test_every_pair_of_methods_is_judged_as_it_was(name):
    method = method_class(name)()
    apart = {other for other in KNOWN if other != name and not compatible(method, method_class(other)())}
    assert apart == KNOWN[name]


def test_all_judgements_hold_both_ways_and_say_who_why_and_what_to_do():
    methods = [kind() for kind in built_in_methods().values()]
    for one in methods:
        for other in methods:
            if one is other:
                continue
            assert compatible(one, other) == compatible(other, one)
            try:
                check_pair(one, other)
            except ValueError as error:
                said = str(error)
                assert one.name in said
                assert other.name in said
                assert "\n" not in said
                assert any(remedy in said for remedy in ("keep one of them", "leave one of them out"))


@dataclass(frozen=True)
class Silent(Method):
    """A third party's, which promises nothing."""

    name: ClassVar[str] = "silent"


@dataclass(frozen=True)
class Median(Silent):
    """A rule of its own in the mean's place."""

    name: ClassVar[str] = "my_median"
    replaces_mean: ClassVar[bool] = True
    guards_updates: ClassVar[bool] = True


@dataclass(frozen=True)
class Variates(Silent):
    """Sends a vector beside the update."""

    name: ClassVar[str] = "my_variates"
    sends: ClassVar[dict[str, int]] = {"my_variates.change": WEIGHTS}


@dataclass(frozen=True)
class Start(Silent):
    """Begins elsewhere."""

    name: ClassVar[str] = "my_start"

    def before_training(self, local):
        local.model.vector.zero_()


@dataclass(frozen=True)
class Ascent(Silent):
    """Moves the point of the gradient."""

    name: ClassVar[str] = "my_ascent"

    def ascend(self, local):
        local.model.vector.add_(1.0)


@dataclass(frozen=True)
class Momentum(Silent):
    """Steps at the server."""

    name: ClassVar[str] = "my_momentum"

    def server_step(self, server, update):
        return update


@dataclass(frozen=True)
class Optimiser(Silent):
    """Steps at the site."""

    name: ClassVar[str] = "my_optimiser"
    replaces_optimiser: ClassVar[bool] = True


@dataclass(frozen=True)
class Logits(Silent):
    """Changes logits."""

    name: ClassVar[str] = "my_logits"

    def modify_logits(self, local, logits, labels):
        return logits


@dataclass(frozen=True)
class Weights(Silent):
    """Weighs replies."""

    name: ClassVar[str] = "my_weights"

    def aggregation_weight(self, server, reply):
        return 1.0


@dataclass(frozen=True)
class Norms(Silent):
    """Keeps normalisation at the sites."""

    name: ClassVar[str] = "my_norms"

    @property
    def local_norms(self):
        return True


@pytest.mark.parametrize(
    ("built_in", "kind", "sentence"),
    [
        ("dp", Norms, "under my_norms sites send normalisation layers that dp does not cover"),
        ("dp", Variates, "sends or weighs more than the one update that dp clips"),
        ("fedasync", Silent, "fedasync merges late replies by rules of its own, and silent is not known to hold"),
        ("fedgmr", Silent, "fedgmr merges sub-models by rules of its own, and silent is not known to hold"),
        ("fednova", Optimiser, "fednova counts steps of SGD, which my_optimiser replaces"),
        ("fednova", Start, "under my_start sites do not start from w"),
        ("pflalign", Start, "pflalign and my_start both decide where a site starts"),
        ("pflalign", Optimiser, "pflalign and my_optimiser both replace the optimiser"),
        ("fedlc", Logits, "fedlc and my_logits both change the logits"),
        ("fedlesam", Ascent, "fedlesam and my_ascent both move the point of the gradient"),
        ("fedadam", Momentum, "fedadam and my_momentum are both optimisers of the server"),
        ("krum", Median, "krum and my_median both replace the mean"),
        ("median", Weights, "my_weights is made for a weighted mean of updates, which median does not take"),
        ("norm_clip", Variates, "my_variates sums further vectors as sites send them, so norm_clip would guard"),
    ],
)
def test_a_third_partys_method_does_not_slip_through(built_in, kind, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_pair(method_class(built_in)(), kind())


def test_a_promise_lets_it_through_and_what_says_nothing_goes_with_what_asks_for_nothing():
    class Safe(Silent):
        async_safe = submodel_safe = True

    for name in ("fedasync", "fedbuff", "fedgmr"):
        check_pair(method_class(name)(), Safe())
    for name in ("scaffold", "fednova", "krum", "dp", "fedavgm", "pflalign"):
        check_pair(method_class(name)(), Silent())


def test_a_third_partys_rule_refuses_the_built_in_methods_that_it_must():
    with pytest.raises(ValueError, match="fednova is made for a weighted mean of updates, which my_median does not"):
        check_pair(Median(), method_class("fednova")())
    with pytest.raises(ValueError, match="scaffold sums further vectors as sites send them"):
        check_pair(Median(), method_class("scaffold")())


def test_no_rule_is_idle():
    methods = [kind() for kind in (*built_in_methods().values(), Optimiser)]
    pairs = [(one, other) for one in methods for other in methods if one is not other]
    assert all(any(rule.contradicts(*pair) for pair in pairs) for rule in RULES)
