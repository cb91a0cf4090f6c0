"""What was computed is saved, tracked and registered before any of it is printed."""

import csv
import io
import json
import sys
from types import SimpleNamespace

import pytest

from medfl.cli import console_tables
from medfl.cli.commands import predict_command, run_commands, study_command
from medfl.cli.standard_streams import SafeStream
from medfl.cli.terminal import Terminal
from medfl.errors import GateFailed, RunFailed
from medfl.pipeline import evaluate_model, register_run, trained_model
from medfl.study import execute, study_tables, text_tables, write_up
from medfl.study.report import study_page
from medfl.tracking import log_evaluation


@pytest.fixture
def steps(monkeypatch):
    """The names of the steps taken, in their order; `steps.note(module, name, result)` makes a function one of them."""

    class Steps(list):
        def note(self, module, name, result=None):
            def step(*args, **kwargs):
                self.append(name)
                if isinstance(result, Exception):
                    raise result
                return result

            monkeypatch.setattr(module, name, step)

    taken = Steps()
    taken.note(Terminal, "say")
    taken.note(Terminal, "table")
    return taken


def finished(tmp_path):
    (tmp_path / "model").touch()
    folder = SimpleNamespace(path=tmp_path, model=tmp_path / "model")
    registry = SimpleNamespace(name="lung", alias="champion")
    return SimpleNamespace(folder=folder, summary={}, tracking="off"), SimpleNamespace(registry=registry)


def test_a_run_is_registered_before_it_is_shown(steps, tmp_path):
    steps.note(register_run, "register_run", "Registered")
    steps.note(console_tables, "print_outcome")
    run_commands.finish(*finished(tmp_path), Terminal())
    assert steps == ["register_run", "print_outcome", "say", "say"]


def test_a_run_that_a_gate_refuses_is_shown_all_the_same(steps, tmp_path):
    steps.note(register_run, "register_run", GateFailed("too low"))
    steps.note(console_tables, "print_outcome")
    with pytest.raises(GateFailed):
        run_commands.finish(*finished(tmp_path), Terminal())
    assert steps == ["register_run", "print_outcome"]


def test_an_evaluation_is_written_and_tracked_before_it_is_shown(steps, tmp_path):
    steps.note(trained_model, "find_model", SimpleNamespace(run_id=None, run=None, facts={"classes": ["a"]}))
    steps.note(evaluate_model, "evaluate", {"run": "r", "sites": {}})
    steps.note(log_evaluation, "log_evaluation", "MLflow: off")
    steps.note(console_tables, "print_sites", ValueError("a terminal that breaks"))
    with pytest.raises(ValueError, match="breaks"):
        run_commands.evaluate("r", json_file=str(tmp_path / "e.json"))
    assert steps == ["find_model", "evaluate", "log_evaluation", "print_sites"]
    assert json.loads((tmp_path / "e.json").read_text()) == {"run": "r", "sites": {}}


def test_a_study_is_saved_and_tracked_before_it_is_shown(steps, tmp_path):
    failed = SimpleNamespace(run=SimpleNamespace(title="one"), problem="it broke")
    for module, name, result in (
        (execute, "carry_out", [failed]),
        (study_tables.Tables, "load", None),
        (write_up, "result", {}),
        (write_up, "save", None),
        (write_up, "markdown", "# Study\n"),
        (study_page, "write_study_report", tmp_path / "report.html"),
        (write_up, "track", "MLflow: off"),
        (text_tables, "text_tables", [SimpleNamespace(title="t", columns=[], rows=[])]),
        (text_tables, "headline", []),
    ):
        steps.note(module, name, result)
    plan = SimpleNamespace(runs=[failed.run], file=SimpleNamespace(grid=None))
    with pytest.raises(RunFailed):
        study_command._carry_out(plan, tmp_path, 1, Terminal(), train=True)
    order = ["carry_out", "load", "result", "save", "markdown", "write_study_report", "track"]
    assert steps == [*order, "text_tables", "table", "headline", "say"]
    assert (tmp_path / "tables.md").read_text() == "# Study\n"


@pytest.mark.parametrize("out", [None, "scores.csv"])
def test_predictions_are_one_utf_8_table(steps, tmp_path, monkeypatch, out):
    raw = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdout", SafeStream(io.TextIOWrapper(raw, encoding="cp1252", errors="strict", write_through=True))
    )
    names = ["слайд 1.png", "caf\udce9.png", "a,b\n.png"]
    steps.note(
        trained_model, "find_model", SimpleNamespace(reads_bags=False, facts={"classes": ["норма", "HER2 [/0]"]})
    )
    steps.note(evaluate_model, "predict", [(name, [0.25, 0.75]) for name in names])
    predict_command.predict("r", "images", out and str(tmp_path / out))
    data = (tmp_path / out).read_bytes() if out else raw.getvalue()
    head, *rows = csv.reader(io.StringIO(data.decode("utf-8")))
    assert head == ["file", "p_норма", "p_HER2 [/0]"]
    assert [row[0] for row in rows] == ["слайд 1.png", "caf\\udce9.png", "a,b\n.png"]
    assert {tuple(row[1:]) for row in rows} == {("0.250000", "0.750000")}
