"""A run over sites whose tables name scanners and ages: the same figures wherever they stand, and over bytes."""

import json

import pytest

from medfl.cli.console_tables import print_outcome
from medfl.cli.terminal import Terminal
from medfl.engines.remote.codec import Bounds, pack, unpack_answer, unpack_request
from medfl.federation.transport import InProcess
from medfl.metrics import format_figure
from medfl.metrics.subgroups import subgroup_sites
from medfl.pipeline.evaluate_model import evaluate
from medfl.pipeline.final_evaluation import SelectedModel, Tuning, measure_sites
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import run
from medfl.pipeline.summary import pooled_figures
from medfl.pipeline.trained_model import find_model
from medfl.report.run_report import report_html
from medfl.tracking import metric_names
from medfl.tracking.model_card import model_card
from tests.subgroup_sites import write_pipeline


@pytest.fixture(scope="module")
def pipeline_file(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def finished(pipeline_file, tmp_path_factory):
    """Folder of the run."""
    return run(load_pipeline(pipeline_file), tmp_path_factory.mktemp("runs") / "first").folder


def test_every_place_shows_what_the_summary_has(finished, pipeline_file, capsys):
    summary = json.loads(finished.summary.read_text())
    told = subgroup_sites(summary["sites"], "scanner", "p1000")
    assert sorted(told) == ["clinic", "north"]
    over = summary["held_out"]["subgroups"]["scanner"]
    assert over["silent"] == ["south"]
    assert over["values"]["p1000"]["mean_auroc"] == told["north"]["auroc"]
    assert summary["pooled"]["train"]["subgroups"]["scanner"]["aperio at2"]["sites"] == ["clinic", "ward"]
    shown = format_figure(told["north"]["auroc"])
    print_outcome(Terminal(), summary, "run", "off")
    console = capsys.readouterr().out
    model = json.loads(finished.model_json.read_text())
    pipeline = load_pipeline(pipeline_file).model_dump(exclude_none=True)
    card, page = model_card(summary, model, pipeline), report_html(finished.path)
    for text in (console, card.replace("\\", ""), page):
        assert "By scanner" in text
        assert "By age" in text
        assert shown in text[text.index("By scanner") :]
        assert "scanner is not stated at south" in text.replace("\n", " ")
        assert "60 and above" in text
    alone = report_html(finished.path, "ward")
    assert "By scanner" in alone
    assert "clinic" not in alone
    assert "Subgroups" not in report_html(finished.path, "south")
    values = metric_names.site_final(summary["sites"]["north"], None)
    assert values["subgroups/scanner/p1000/auroc"] == told["north"]["auroc"]
    assert values["subgroups/scanner/p1000/auroc_low"] == told["north"]["auroc_ci"][0]
    assert "subgroups/scanner/p1000/sensitivity/malignant" in values
    federated = metric_names.federation_final(summary)
    assert federated["held_out/subgroups/scanner/values/p1000/mean_auroc"] == told["north"]["auroc"]
    assert "train_sites/subgroups/age/difference/auroc/value" in federated


def test_evaluate_gives_the_figures_of_the_run(finished):
    summary, again = json.loads(finished.summary.read_text()), evaluate(find_model(str(finished.path)))
    assert again["sites"]["north"]["subgroups"] == summary["sites"]["north"]["subgroups"]
    assert again["held_out"]["subgroups"] == summary["held_out"]["subgroups"]
    assert again["pooled"]["held_out"]["subgroups"] == summary["pooled"]["held_out"]["subgroups"]


class ByBytes(InProcess):
    """Every message becomes bytes on its way."""

    def call(self, sites, request):
        bounds = Bounds.of(next(iter(self.sites.values())).shared.model)
        for answer in super().call(sites, lambda name: unpack_request(pack(request(name), bounds), bounds)):
            yield unpack_answer(pack(answer, bounds), answer.site, answer.round, bounds)


def test_sites_in_processes_of_their_own_give_the_same_numbers(pipeline_file, monkeypatch):
    prepared = prepare(load_pipeline(pipeline_file, ["disclosure.min_count=5"]))
    model = prepared.shared.model
    chosen, tuned = SelectedModel(1, model.weights(), model.buffers()), Tuning(thresholds={"malignant": 0.5})
    here = measure_sites(prepared, chosen, tuned, ["north", "south"])
    assert not here.failures
    monkeypatch.setattr(prepared.transport, "inner", ByBytes(prepared.sites))
    there = measure_sites(prepared, chosen, tuned, ["north", "south"])
    classes = ("tumour", "normal")
    assert there.sites["north"]["subgroups"] == here.sites["north"]["subgroups"]
    pooled = [pooled_figures(own.sites, own.sums, classes, ("tumour",)) for own in (here, there)]
    assert pooled[0] == pooled[1]
    assert sorted(pooled[0]["held_out"]["subgroups"]["scanner"]) == ["aperio at2", "p1000"]


def test_the_gate_reads_the_worst_subgroup_of_a_finished_run(finished):
    from medfl.config import Gates
    from medfl.runs.gates import gate_results

    summary = json.loads(finished.summary.read_text())
    (result,) = gate_results(summary, Gates(worst_subgroup_auroc_min=0.2), {"north": "held_out"})
    lows = [
        own["auroc_ci"][0]
        for column in summary["sites"]["north"]["subgroups"].values()
        for own in column["values"].values()
    ]
    assert result.value == min(lows)
    (missed,) = gate_results(summary, Gates(worst_subgroup_auroc_min=0.2))
    assert missed.value is None
    assert "a subgroup at the held-out site south is not available" in str(missed)
