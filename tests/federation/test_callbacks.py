"""The three hooks around the rounds of a run, and the timer."""

import pytest

from medfl.federation.callbacks import ROUND_PHASES, Callback, PhaseTimer
from medfl.federation.rounds import Federation
from tests.hand import play


class Log(Callback):
    def __init__(self, lines, name, stop=None):
        self.lines, self.name, self.stop = lines, name, stop

    def before_run(self, state):
        self.lines.append((self.name, "before", state.round))

    def after_round(self, record, state):
        self.lines.append((self.name, record["round"], record.get("mark")))
        record["mark"] = self.name
        if record["round"] == self.stop:
            raise KeyError("enough")

    def after_run(self, state, error):
        self.lines.append((self.name, "after", type(error)))


def watched(*callbacks, rounds=1):
    old = play(rounds=rounds).federation
    return Federation(old.config, old.transport, old.state, callbacks, old.chain)


def test_hooks_are_called_in_order_and_see_what_those_before_them_changed():
    lines = []
    watched(Log(lines, "a"), Log(lines, "b")).run()
    none = type(None)
    assert lines[:2] == [("a", "before", 0), ("b", "before", 0)]
    assert lines[2:6] == [("a", 0, None), ("b", 0, "a"), ("a", 1, None), ("b", 1, "a")]
    assert lines[6:] == [("a", "after", none), ("b", "after", none)]


def test_an_error_ends_the_run_and_all_are_told():
    lines = []
    federation = watched(Log(lines, "a", stop=1), Log(lines, "b"), rounds=3)
    with pytest.raises(KeyError, match="enough"):
        federation.run()
    assert lines[-2:] == [("a", "after", KeyError), ("b", "after", KeyError)]
    assert ("b", 1, "a") not in lines
    assert federation.state.round == 2


def test_the_timer_counts_each_round_and_all_of_them():
    timer, sums = PhaseTimer({"train": 10.0, "prepare": 1.0}), []

    class Look(Callback):
        def after_round(self, record, state):
            sums.append((dict(timer.round_seconds), dict(timer.seconds)))

    watched(timer, Look(), rounds=2).run()
    assert all(set(of_round) == set(ROUND_PHASES) for of_round, _ in sums)
    trained = sum(of_round["train"] for of_round, _ in sums)
    assert trained > 0
    assert sums[-1][1]["train"] == pytest.approx(10.0 + trained)
    assert sums[-1][1]["prepare"] == 1.0
    with timer.measure("evaluate"):
        pass
    before = timer.seconds["evaluate"]
    timer.close()
    assert timer.seconds["evaluate"] > before
