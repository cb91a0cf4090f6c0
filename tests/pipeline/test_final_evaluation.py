"""The end of a run: calibrated on validation data, thresholds from there too, test data touched once and last."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from scipy.optimize import brentq
from sklearn.metrics import log_loss, roc_auc_score

from medfl.cli.console_tables import print_outcome
from medfl.cli.terminal import Terminal
from medfl.config import Gates, Task
from medfl.engines.remote.codec import Bounds, pack, unpack_answer, unpack_request
from medfl.errors import MedflError
from medfl.federation.transport import InProcess
from medfl.messages import Failure, TemperatureRequest, TrainRequest
from medfl.metrics import EDGES, temperature_sums
from medfl.metrics.adaptive_bins import ADAPTIVE_BINS
from medfl.metrics.figures import figure
from medfl.metrics.group_figures import group_figures
from medfl.metrics.temperature import ENOUGH_GROUPS, fit_temperature
from medfl.metrics.vector_scaling import fit_scaling, scaling_sums
from medfl.pipeline import run as carrying_out
from medfl.pipeline.classifier import load_model
from medfl.pipeline.evaluate_model import evaluate, predict
from medfl.pipeline.final_evaluation import (
    SelectedModel,
    Tuning,
    calibrate,
    measure_sites,
    tune,
)
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.malignancy import malignant_classes
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import resume, run
from medfl.pipeline.run_result import site_table
from medfl.pipeline.summary import summarise
from medfl.pipeline.trained_model import find_model
from medfl.report.run_report import report_html
from medfl.runs.gates import check, gate_results
from medfl.runs.headline import headline
from medfl.site.evaluator import SiteDiverged
from medfl.site.measurement import probabilities
from medfl.study.study_tables import run_row, site_rows
from medfl.tracking import metric_names
from medfl.tracking.model_card import model_card
from tests.tiny import CLASSES, write_tiny

SITES = ("north", "south", "east", "west")
SITE_LISTS = {
    "train": [{"name": "north", "patches": 72}, {"name": "south", "patches": 60}],
    "held_out": [{"name": "east", "patches": 48}, {"name": "west", "patches": 40}],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Path of a pipeline of four named sites."""
    changes = {"seed": 3, "sites": SITE_LISTS, "training": {"optimizer": {"lr": 0.03}}}
    return write_tiny(tmp_path_factory.mktemp("pipelines"), **changes)


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """Folder of the run."""
    return run(load_pipeline(small), tmp_path_factory.mktemp("runs") / "first").folder


@pytest.fixture(scope="module")
def made(small):
    """The pipeline made ready, with its untrained model: (prepared, weights, buffers)."""
    prepared = prepare(load_pipeline(small))
    return prepared, prepared.shared.model.weights(), prepared.shared.model.buffers()


@pytest.fixture
def prepared(made):
    """The pipeline ready to train; what a test does to its data, model and transport is undone."""
    prepared, weights, buffers = made
    prepared.shared.model.load(weights, buffers)
    stores = {name: site.store for name, site in prepared.sites.items()}
    yield prepared
    prepared.__dict__.pop("transport", None)
    for name, store in stores.items():
        prepared.sites[name].store = store


def chosen_of(prepared, folder=None):
    """The untrained model, or that of a run folder."""
    model = prepared.shared.model
    weights, buffers = model.weights(), model.buffers()
    if folder is not None:
        from medfl.runs.tensor_files import load_weights

        weights, buffers = model.from_state_dict(load_weights(folder.model))
    return SelectedModel(2, weights, buffers)


def scores(prepared, chosen, split, sites):
    """(logits, labels) of these sites' patches one after another."""
    logits = [site.evaluator.logits(chosen.weights, chosen.buffers, split).numpy() for site in sites]
    parts = [(own, s.store.labels[s.store.splits[split]]) for own, s in zip(logits, sites, strict=True)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def softmax(logits):
    return probabilities(torch.tensor(logits))


class Spy(InProcess):
    """Remembers what was asked of whom; loses the replies of `lost` sites, if `late` from the second message on."""

    def __init__(self, sites, lost=(), late=False):
        super().__init__(sites)
        self.lost, self.late = set(lost), late
        self.asked = []
        self.replies = []

    def call(self, sites, request):
        for answer in super().call(sites, lambda name: self.note(name, request(name))):
            self.replies.append(answer)
            often = len([name for name, _ in self.asked if name == answer.site])
            gone = answer.site in self.lost and (often > 1 or not self.late)
            yield Failure(answer.site, answer.round, "the line went dead") if gone else answer

    def note(self, name, request):
        self.asked.append((name, request))
        return request


def watched(prepared, **how):
    spy = Spy(prepared.sites, **how)
    prepared.__dict__["transport"] = spy
    return spy


# ---------------------------------------------------------------------------------------------- what is asked of whom


def test_held_out_data_is_asked_for_once_and_last(prepared):
    spy = watched(prepared)
    chosen = chosen_of(prepared)
    tuned = tune(prepared, chosen)
    before = len(spy.asked)
    assert {(name, request.splits) for name, request in spy.asked} == {("north", ("val",)), ("south", ("val",))}
    assert before == 2 * 3  # two messages for the temperature, one for the thresholds
    measured = measure_sites(prepared, chosen, tuned, prepared.sites)
    assert [(name, r.splits) for name, r in spy.asked[before:]] == [(n, ("test",)) for n in sorted(prepared.sites)]
    assert set(measured.sites) == set(measured.sums) == set(measured.curves) == {"north", "south", "east", "west"}
    assert not any(isinstance(request, TrainRequest) for _, request in spy.asked)


def test_no_reply_holds_a_number_for_each_patch(prepared):
    def lengths(value):
        if isinstance(value, dict):
            return {n for part in value.values() for n in lengths(part)}
        if isinstance(value, list | tuple):
            return {len(value)} | {n for part in value for n in lengths(part)}
        assert value is None or isinstance(value, int | float | str), value
        return set()

    spy = watched(prepared)
    measure_sites(prepared, chosen_of(prepared), tune(prepared, chosen_of(prepared)), prepared.sites)
    for reply in spy.replies:
        patches = {len(rows) for rows in prepared.sites[reply.site].store.splits.values()}
        json.dumps([reply.metrics, reply.sums, reply.curves], allow_nan=False)
        curves = dict(reply.curves)
        adaptive = {split: its["calibration"] for split, its in curves.items()}  # of five source groups each, or all
        assert lengths(adaptive) <= set(range(ADAPTIVE_BINS + 1))
        curves = {split: {k: v for k, v in its.items() if k != "calibration"} for split, its in curves.items()}
        found = lengths(dict(reply.metrics)) | lengths(dict(reply.sums)) | lengths(curves)
        # Pairs and classes; 4 targets; 15 bins and their edges; 33 temperatures; the grid of a curve; histogram bins.
        assert found <= {2, 3, 4, 15, 16, 33, 51, 1024}, found
        assert not patches & (found - {3, 15, 16}), (patches, found)


def test_permuted_test_labels_change_the_last_figures_and_nothing_else(small, finished, tmp_path, monkeypatch):
    def permuted(*args):
        ready = prepare(*args)
        for site in ready.sites.values():
            rows, labels = site.store.splits["test"], site.store.labels.copy()
            labels[rows] = np.random.default_rng(0).permutation(labels[rows])
            site.store = replace(site.store, labels=labels)
        return ready

    monkeypatch.setattr(carrying_out, "prepare", permuted)
    folder = run(load_pipeline(small), tmp_path / "permuted").folder
    first, second = finished.read_summary(), folder.read_summary()
    for file in ("rounds", "model"):
        assert getattr(folder, file).read_bytes() == getattr(finished, file).read_bytes()
    facts = [json.loads(f.model_json.read_text()) | {"run": ""} for f in (finished, folder)]
    assert facts[0] == facts[1]
    for key in ("temperature", "calibration", "operating", "selected_round", "stability"):
        assert first[key] == second[key]
    assert all(first["sites"][name]["nll"] != second["sites"][name]["nll"] for name in SITES)


# ------------------------------------------------------------------------------------------------- what they come to


def test_the_temperature_is_that_of_all_validation_logits(prepared, finished):
    summary = finished.read_summary()
    chosen = chosen_of(prepared, finished)
    logits, labels = scores(prepared, chosen, "val", [prepared.sites["north"], prepared.sites["south"]])
    fit = summary["calibration"]
    sites = [prepared.sites[name] for name in ("north", "south")]
    groups = sum(len(np.unique(site.store.groups[site.store.splits["val"]])) for site in sites)
    missing = max(0, ENOUGH_GROUPS - groups)
    assert (fit["groups"], fit["pulled"]) == (groups, missing > 0)

    def slope(b):
        return temperature_sums(logits, labels, (1 / b,)).slope[0] + missing * (1 - 1 / b)

    b = brentq(slope, 0.05, 20, xtol=1e-12)
    assert summary["temperature"] == fit["temperature"] == pytest.approx(1 / b, rel=1e-4)
    assert fit["patches"] == len(labels)
    assert fit["sites"] == ["north", "south"]
    assert fit["nll_after"] == pytest.approx(log_loss(labels, softmax(logits * b), labels=range(3)), rel=1e-6)
    assert fit["nll_before"] == pytest.approx(log_loss(labels, softmax(logits), labels=range(3)), rel=1e-6)


def test_thresholds_keep_the_sensitivity_on_validation_data_and_the_next_edge_does_not(prepared, finished):
    summary = finished.read_summary()
    sites = [prepared.sites["north"], prepared.sites["south"]]
    logits, labels = scores(prepared, chosen_of(prepared, finished), "val", sites)
    probs = softmax(logits / summary["temperature"])
    assert set(summary["operating"]["thresholds"]) == {*CLASSES, "malignant"}
    for target, threshold in summary["operating"]["thresholds"].items():
        column = 0 if target == "malignant" else CLASSES.index(target)  # lung_aca alone is malignant here
        positive = probs[labels == column, column]
        above = EDGES[np.searchsorted(EDGES, threshold) + 1]
        assert (positive >= threshold).mean() >= 0.95
        assert (positive >= above).mean() < 0.95
    assert summary["operating"]["patches"] == len(labels)


def test_figures_are_those_of_calibrated_scores_and_pooled_ones_those_of_all_patches(prepared, finished):
    summary = finished.read_summary()
    chosen, temperature = chosen_of(prepared, finished), summary["temperature"]
    for role, group in (("held_out", ("east", "west")), ("train", ("north", "south"))):
        for among in (group[:1], group[1:], group):
            logits, labels = scores(prepared, chosen, "test", [prepared.sites[name] for name in among])
            probs = softmax(logits / temperature)
            entry = summary["sites"][among[0]] if len(among) == 1 else summary["pooled"][role]
            assert entry["n"] == len(labels)
            assert entry["nll"] == pytest.approx(log_loss(labels, probs, labels=range(3)), rel=1e-9)
            assert entry["brier"] == pytest.approx(((probs - np.eye(3)[labels]) ** 2).sum(1).mean(), rel=1e-9)
            assert entry["ece"] == pytest.approx(ece_of(probs, labels), abs=1e-9)
            assert entry["ece_before"] == pytest.approx(ece_of(softmax(logits), labels), abs=1e-9)
            auroc = np.mean([roc_auc_score(labels == c, probs[:, c]) for c in range(3)])
            assert abs(entry["auroc"] - auroc) <= entry.get("auroc_resolution", 0) + 1e-12
            assert sum(entry["reliability_before"]["count"]) == sum(entry["reliability"]["count"]) == len(labels)
    east = summary["sites"]["east"]
    assert east["ece_after"] == east["ece"] != east["ece_before"]
    assert {"ece_before_ci", "classwise_ece_before", "brier_before", "nll_before", "auroc_se"} <= east.keys()
    over = summary["held_out"]
    assert over["mean_ece_before"] == pytest.approx(np.mean([summary["sites"][n]["ece_before"] for n in over["sites"]]))


def ece_of(probs, labels):
    """Expected calibration error, patch by patch."""
    top, hit = probs.max(axis=1), probs.argmax(axis=1) == labels
    place = np.ceil(top * 15).clip(1, 15)
    return sum(abs(hit[place == b].sum() - top[place == b].sum()) for b in range(1, 16)) / len(labels)


def test_operating_points_count_patches(prepared, finished):
    summary = finished.read_summary()
    logits, labels = scores(prepared, chosen_of(prepared, finished), "test", [prepared.sites["east"]])
    probs = softmax(logits / summary["temperature"])
    points = summary["sites"]["east"]["operating"]
    for c, name in enumerate(CLASSES):
        called = probs[:, c] >= summary["operating"]["thresholds"][name]
        point = points[name]
        assert point["threshold"] == summary["operating"]["thresholds"][name]
        assert point["sensitivity"] == pytest.approx(called[labels == c].mean())
        assert point["specificity"] == pytest.approx(1 - called[labels != c].mean())
        assert (point["positives"], point["negatives"]) == ((labels == c).sum(), (labels != c).sum())
        low, high = point["sensitivity_ci"]
        assert low <= point["sensitivity"] <= high
    assert points["malignant"] | {"threshold": 0} == points["lung_aca"] | {"threshold": 0}


def test_curves_hold_what_is_drawn(finished):
    curves = json.loads(finished.curves.read_text())
    summary = finished.read_summary()
    assert curves["classes"] == CLASSES
    assert set(curves["sites"]) == set(SITES)
    for name, entry in curves["sites"].items():
        assert entry["role"] == summary["sites"][name]["role"]
        assert entry["targets"] == [*CLASSES, "malignant"]
        assert set(entry["roc"]) == set(entry["targets"])
        for band in entry["roc"].values():
            assert len(band["fpr"]) == len(band["tpr"]) == 51
            assert band["low"] is band["high"] is None or len(band["low"]) == len(band["high"]) == 51
        counts = np.array(entry["histograms"]["positive"]) + np.array(entry["histograms"]["negative"])
        assert counts.shape == (4, 1024)
        assert (counts.sum(axis=1) == summary["sites"][name]["n"]).all()


def test_the_mean_of_independent_sites():
    def site(auroc, error):
        return {"role": "held_out", "auroc": auroc, "auroc_se": error, "ece": 0.1, "ece_before": 0.2}

    over = group_figures({"a": site(0.9, 0.03), "b": site(0.8, 0.04)}, "held_out")
    half = 1.959964 * 0.05 / 2 / (0.85 * 0.15)  # of the logit: the root of .03² + .04², over two sites
    ends = [1 / (1 + math.exp(-math.log(0.85 / 0.15) + sign * half)) for sign in (1, -1)]
    assert over["mean_auroc_ci"] == pytest.approx(ends, abs=1e-6)
    assert (over["mean_ece"], over["mean_ece_before"], over["worst_ece_before"]) == pytest.approx((0.1, 0.2, 0.2))
    assert group_figures({"a": site(0.9, 0.03), "b": site(0.8, None)}, "held_out")["mean_auroc_ci"] is None
    assert group_figures({"a": site(0.9, 0.03), "b": site(None, None)}, "held_out")["mean_auroc_ci"][0] < 0.9
    assert group_figures({"a": site(0.99, 0.03)}, "held_out")["mean_auroc_ci"][1] < 1.0
    assert group_figures({}, "held_out")["mean_auroc_ci"] is None


# ------------------------------------------------------------------------------- the same numbers wherever one looks


def test_the_registered_model_evaluate_and_predict_give_calibrated_probabilities(prepared, finished, tmp_path):
    summary = finished.read_summary()
    model = find_model(str(finished.path))
    assert model.facts["temperature"] == summary["temperature"]
    assert model.facts["thresholds"] == summary["operating"]["thresholds"]
    assert model.facts["malignant"] == ["lung_aca"]
    result = evaluate(model)
    assert result["sites"] == {name: summary["sites"][name] for name in ("east", "west")}
    assert result["held_out"] == summary["held_out"]
    assert result["pooled"] == summary["pooled"] | {"train": None}

    from PIL import Image

    store = prepared.sites["east"].store
    for row in range(3):
        Image.fromarray(np.asarray(store.images[row])).save(tmp_path / f"{row}.png")
    logits, _ = scores(prepared, chosen_of(prepared, finished), "test", [prepared.sites["east"]])
    rows = np.array([p for _, p in predict(model, tmp_path)])
    np.testing.assert_allclose(rows, softmax(logits / summary["temperature"])[:3], atol=1e-6)


def test_console_and_mlflow_show_the_summarys_numbers(finished, capsys):
    summary = finished.read_summary()
    print_outcome(Terminal(), summary, "run", "off")
    shown = capsys.readouterr().out
    over, pooled, fit = summary["held_out"], summary["pooled"]["held_out"], summary["calibration"]
    assert f"mean ECE {over['mean_ece_before']:.3f} -> {over['mean_ece']:.3f}" in shown
    assert f"All their {pooled['n']} patches together: AUROC {pooled['auroc']:.3f}" in shown
    assert f"Temperature {fit['temperature']:.3f} from {fit['patches']} validation patches" in shown
    east = summary["sites"]["east"]
    assert f"{east['ece_before']:.3f} -> {east['ece']:.3f}" in shown
    assert f"{east['operating']['malignant']['specificity']:.3f} [" in shown

    values = metric_names.site_final(east, None)
    assert values["test/ece_before"] == east["ece_before"]
    assert values["test/ece_after"] == values["test/ece"] == east["ece"]
    assert values["test/ece_before_low"] == east["ece_before_ci"][0]
    assert values["test/sensitivity/malignant"] == east["operating"]["malignant"]["sensitivity"]
    assert values["test/specificity/lung_n_high"] == east["operating"]["lung_n"]["specificity_ci"][1]
    values = metric_names.federation_final(summary)
    assert values["final/calibration/temperature"] == summary["temperature"]
    assert values["final/operating/thresholds/malignant"] == summary["operating"]["thresholds"]["malignant"]
    assert values["pooled/held_out/auroc"] == pooled["auroc"]
    assert values["pooled/train/ece_before"] == summary["pooled"]["train"]["ece_before"]
    assert values["held_out/mean_ece_before"] == over["mean_ece_before"]
    assert values["held_out/mean_auroc_low"] == over["mean_auroc_ci"][0]
    assert not any("reliability" in key for key in values)


def test_patients_stand_wherever_patches_do(finished, capsys):
    """Source groups are the patients of generated tissue: four patches each."""
    summary = finished.read_summary()
    east, over = summary["sites"]["east"]["patients"], summary["held_out"]["patients"]
    assert east["n"] == east["n_groups"] == summary["sites"]["east"]["n_groups"]
    facts, operating = find_model(str(finished.path)).facts, summary["operating"]["patients"]
    assert facts["patients"] == "mean"
    assert facts["unit_thresholds"]["patients"] == operating["thresholds"]
    point = east["operating"]["malignant"]
    assert point["threshold"] == operating["thresholds"]["malignant"]
    assert point["positives"] == east["support"]["lung_aca"]["patches"]
    site, federation = metric_names.site_final(summary["sites"]["east"], None), metric_names.federation_final(summary)
    assert site["patients/auroc_low"] == east["auroc_ci"][0]
    assert site["patients/sensitivity/malignant"] == point["sensitivity"]
    assert federation["held_out/patients/mean_auroc"] == over["mean_auroc"]
    assert federation["train_sites/patients/mean_ece"] == summary["train_sites"]["patients"]["mean_ece"]
    gates = Gates(held_out_patient_auroc_min=0, held_out_patient_mean_auroc_min=0, held_out_patient_ece_max=1)
    results = {result.gate: result for result in gate_results(summary, gates)}
    both = [summary["sites"][name]["patients"] for name in ("east", "west")]
    assert results["held_out_patient_auroc_min"].value == min(own["auroc_ci"][0] for own in both)
    assert results["held_out_patient_mean_auroc_min"].value == over["mean_auroc_ci"][0]
    assert results["held_out_patient_ece_max"].value == over["mean_ece"]
    assert "per patient" in str(results["held_out_patient_ece_max"])
    assert not check(summary, gates)
    (missed,) = check(summary, Gates(held_out_slide_auroc_min=0))  # there are none
    assert missed.value is None
    row = run_row(summary, finished.records(), "data")
    assert float(row["held_out_patient_mean_auroc"]) == pytest.approx(over["mean_auroc"], rel=1e-8)
    (own,) = [row for row in site_rows(summary) if (row["site"], row["model"]) == ("east", "global, per patient")]
    assert float(own["auroc"]) == pytest.approx(east["auroc"], rel=1e-8)
    assert site_table(summary["sites"])[0]["patients_auroc"] == east["auroc"]
    card = model_card(summary, facts, yaml.safe_load(finished.pipeline.read_text()))
    print_outcome(Terminal(), summary, "run", "off")
    for page in (card, capsys.readouterr().out, report_html(finished.path)):
        assert "Per patient" in page
        assert figure("auroc").format_interval(east) in page
    assert dict(headline(summary).lines)["Sensitivity per patient"].endswith(f"{point['threshold']:.3f}")


def test_the_card_shows_calibration_and_operating_points(finished):
    summary, facts = finished.read_summary(), json.loads(finished.model_json.read_text())
    card = model_card(summary, facts, yaml.safe_load(finished.pipeline.read_text()))
    point = summary["sites"]["west"]["operating"]["malignant"]
    assert f"Temperature {summary['temperature']:.3f}" in card
    assert f"| west | malignant | {point['threshold']:.3f} | {point['positives']} |" in card
    assert f"| {summary['sites']['west']['ece_before']:.3f} | {summary['sites']['west']['ece']:.3f} [" in card
    old = {key: value for key, value in summary.items() if key not in ("calibration", "operating")}
    assert "the network's own" in model_card(old, facts, yaml.safe_load(finished.pipeline.read_text()))


def test_the_ece_gate_reads_the_calibrated_model(small, finished):
    from medfl.config import Gates

    summary = finished.read_summary()
    bound = summary["held_out"]["mean_ece"]
    assert not check(summary, Gates(held_out_ece_max=bound))
    assert check(summary, Gates(held_out_ece_max=bound - 1e-6))


def test_a_resumed_run_ends_with_the_same_figures(finished):
    first, curves = finished.read_summary(), finished.curves.read_bytes()
    second = resume(finished.path).folder
    keys = first.keys() - {"timings", "digests"}
    assert {key: second.read_summary()[key] for key in keys} == {key: first[key] for key in keys}
    assert second.curves.read_bytes() == curves


# ------------------------------------------------------------------------------------------------------ other wishes


def test_calibrate_none_leaves_the_networks_own_probabilities(small, prepared, finished, tmp_path, capsys):
    folder = run(load_pipeline(small, ["evaluation.calibrate=none"]), tmp_path / "plain").folder
    summary, calibrated = folder.read_summary(), finished.read_summary()
    assert summary["temperature"] is summary["calibration"] is None
    assert json.loads(folder.model_json.read_text())["temperature"] is None
    assert folder.model.read_bytes() == finished.model.read_bytes()
    for name, entry in summary["sites"].items():
        assert entry["ece_after"] == entry["ece_before"] == entry["ece"] == calibrated["sites"][name]["ece_before"]
        assert entry["nll"] == entry["nll_before"] == calibrated["sites"][name]["nll_before"]
        assert entry["auroc"] == pytest.approx(calibrated["sites"][name]["auroc"], abs=0.05)
    assert set(summary["operating"]["thresholds"]) == {*CLASSES, "malignant"}
    print_outcome(Terminal(), summary, "run", "off")
    assert "Not calibrated" in capsys.readouterr().out


def test_each_sites_own_model_has_its_own_temperature(small, tmp_path, capsys):
    changes = ["baseline=local_only", "training.rounds=1"]
    outcome = run(load_pipeline(small, changes), tmp_path / "alone")
    summary = outcome.summary
    assert summary["temperature"] is summary["calibration"] is summary["operating"] is summary["pooled"] is None
    own = summary["temperatures"]
    assert set(own) == {"north", "south"}
    assert own["north"] != own["south"]
    assert all(entry["operating"] == {} for entry in summary["sites"].values())
    assert summary["held_out"]["mean_auroc_ci"] is None
    assert summary["held_out"]["mean_ece_before"] != summary["held_out"]["mean_ece"]
    assert set(json.loads(outcome.folder.curves.read_text())["sites"]) == {"north", "south"}
    assert metric_names.federation_final(summary)["final/temperatures/north"] == own["north"]
    print_outcome(Terminal(), summary, "run", "off")
    assert f"Temperatures: north {own['north']:.3f}" in capsys.readouterr().out


class Coded(InProcess):
    """Every message as the bytes that an engine would carry."""

    def call(self, sites, request):
        bounds = Bounds.of(next(iter(self.sites.values())).shared.model)
        for answer in super().call(sites, lambda name: unpack_request(pack(request(name), bounds), bounds)):
            yield unpack_answer(pack(answer, bounds), answer.site, answer.round, bounds)


def test_scales_and_biases_are_those_of_all_validation_patches_together(small, prepared, monkeypatch):
    """Over bytes, from sums, equal to a fit to the patches themselves; sites of one class each, and one with none."""
    monkeypatch.setattr(prepared, "pipeline", load_pipeline(small, ["evaluation.calibrate=vector"]))
    chosen = chosen_of(prepared)
    tuned = calibrate(prepared, chosen, ["north", "south"])
    north, south = prepared.sites["north"], prepared.sites["south"]
    logits, labels = scores(prepared, chosen, "val", [north, south])
    groups = np.concatenate([s.store.groups[s.store.splits["val"]] + 1000 * i for i, s in enumerate((north, south))])
    one = fit_temperature(lambda at: temperature_sums(logits, labels, at, groups)).temperature
    central = fit_scaling(lambda points: scaling_sums(logits, labels, points, groups), len(CLASSES), one)
    assert tuned.fit["scale"] == pytest.approx(central.calibration.scale, abs=1e-6)
    assert tuned.fit["bias"] == pytest.approx(central.calibration.bias, abs=1e-6)
    assert tuned.temperature is None
    prepared.__dict__["transport"] = Coded(prepared.sites)
    assert calibrate(prepared, chosen, ["north", "south"]) == tuned
    south.store = replace(south.store, splits=south.store.splits | {"val": np.empty(0, dtype=np.int64)})
    assert calibrate(prepared, chosen, ["north", "south"]).fit["sites"] == ["north"]


def test_every_site_may_count_the_same(small, prepared, monkeypatch):
    chosen, south = chosen_of(prepared), prepared.sites["south"]
    south.store = replace(south.store, splits=south.store.splits | {"val": south.store.splits["val"][:5]})
    fits = [calibrate(prepared, chosen, ["north", "south"]).fit]
    monkeypatch.setattr(prepared, "pipeline", load_pipeline(small, ["evaluation.calibrate={weights: sites}"]))
    fits.append(calibrate(prepared, chosen, ["north", "south"]).fit)
    assert fits[0]["temperature"] != fits[1]["temperature"]
    assert fits[0]["patches"] == fits[1]["patches"]
    assert (fits[0].get("weights"), fits[1]["weights"]) == (None, "sites")


def test_a_run_calibrated_class_by_class_is_served_as_it_was_measured(small, tmp_path, capsys):
    """From sums through random laboratories to summary, model.json, evaluate, predict and every table."""
    wishes = ["evaluation.calibrate={method: vector, weights: sites, laboratories: 2}", "training.rounds=1"]
    wishes.append("sites={train: [{name: north, patches: 48}], held_out: [{name: east, patches: 24}]}")
    outcome = run(load_pipeline(small, wishes), tmp_path / "vector")
    folder, summary = outcome.folder, outcome.summary
    fit = summary["calibration"]
    assert (fit["method"], fit["weights"], fit["laboratories"], fit["stain_strength"]) == ("vector", "sites", 2, 0.5)
    assert summary["temperature"] is None
    facts = json.loads(folder.model_json.read_text())
    assert facts["calibration"] == {"scale": fit["scale"], "bias": fit["bias"]}
    assert facts["temperature"] is None
    model = find_model(str(folder.path))
    again = evaluate(model)
    assert again["calibration"] == facts["calibration"]
    for name, entry in again["sites"].items():
        assert entry["nll"] == pytest.approx(summary["sites"][name]["nll"], rel=1e-6)
        assert entry["nll"] != entry["nll_before"]
    prepared = prepare(load_pipeline(folder.pipeline))
    logits, _ = scores(prepared, chosen_of(prepared, folder), "test", [prepared.sites["east"]])
    patches = np.asarray(prepared.sites["east"].store.images)
    wanted = softmax(logits * fit["scale"] + fit["bias"])
    np.testing.assert_allclose(load_model(folder.path).predict_proba(patches), wanted, atol=1e-5)
    print_outcome(Terminal(), summary, "run", "off")
    shown = capsys.readouterr().out
    assert f"Vector scaling, factors {min(fit['scale']):.3f} to" in shown
    assert "every site counting the same, seen through 2 random laboratories each" in shown
    card = model_card(summary, facts, yaml.safe_load(folder.pipeline.read_text()))
    assert "each class's logit times its factor" in card
    page = report_html(folder.path)
    assert "each class&#39;s logit times its factor" in page


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"classes": ["colon_n", "lung_scc", "lung_aca"]}, ("lung_scc", "lung_aca")),
        ({"classes": ["lung_n", "colon_n"]}, ()),
        ({"classes": ["lung_aca", "lung_scc"]}, ()),  # nothing benign to tell them from
        ({"classes": ["lung_aca", "lung_n", "liver"]}, ()),
        ({"classes": ["liver", "spleen"], "malignant": ["spleen"]}, ("spleen",)),
        ({"classes": ["lung_aca", "lung_n"], "malignant": []}, ()),
        ({"classes": ["benign", "malignant"], "malignant": ["malignant"]}, ("malignant",)),
    ],
)
def test_which_classes_are_malignant(task, expected):
    assert malignant_classes(Task(**task)) == expected


@pytest.mark.parametrize(
    "override", ["task.malignant=[liver]", f"task.malignant=[{', '.join(CLASSES)}]", "evaluation.sensitivity=0"]
)
def test_refusals_at_load(small, override):
    with pytest.raises(MedflError) as caught:
        load_pipeline(small, [override])
    assert override.partition("=")[0].split(".")[1] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ("platt", "`evaluation.calibrate`: input should be 'temperature', 'vector' or 'none'"),
        ("{method: platt}", "`evaluation.calibrate.method`: input should be 'temperature' or 'vector'"),
        ("{laboratories: 65}", "`evaluation.calibrate.laboratories`: input should be less than or equal to 64"),
        ("{weight: sites}", "`evaluation.calibrate.weight` is not a key of this file. Did you mean"),
    ],
)
def test_a_calibration_that_there_is_not_is_named(small, wish, says):
    with pytest.raises(MedflError, match=re.escape(says)):
        load_pipeline(small, [f"evaluation.calibrate={wish}"])


def test_laboratories_of_normalised_patches_are_refused(small):
    with pytest.raises(MedflError, match="no site normalises them again"):
        load_pipeline(small, ["evaluation.calibrate={laboratories: 2}", "data.normalise=reinhard"])


def test_vector_scaling_of_too_many_classes_is_refused(tmp_path):
    many = {"task": {"classes": [f"c{n}" for n in range(101)]}, "evaluation": {"calibrate": "vector"}}
    with pytest.raises(MedflError, match="at most 100; use temperature"):
        load_pipeline(write_tiny(tmp_path, **many))


# -------------------------------------------------------------------------------------------------- what may be amiss


@pytest.mark.parametrize("late", [False, True])
def test_a_site_that_does_not_answer_is_left_out_of_the_whole_fit(prepared, late):
    chosen = chosen_of(prepared)
    alone = calibrate(prepared, chosen, ["north"])
    spy = watched(prepared, lost={"south"}, late=late)
    tuned = tune(prepared, chosen)
    assert tuned.temperature == alone.temperature
    assert tuned.fit == alone.fit
    assert tuned.failures == ({"site": "south", "reason": "the line went dead"},)
    assert sum(isinstance(request, TemperatureRequest) for _, request in spy.asked) == 2 * 2 + 2


def test_no_validation_patches_anywhere(prepared, finished, capsys):
    for name in ("north", "south"):
        store = prepared.sites[name].store
        prepared.sites[name].store = replace(store, splits=store.splits | {"val": np.empty(0, dtype=np.int64)})
    chosen = chosen_of(prepared)
    tuned = tune(prepared, chosen)
    assert tuned == Tuning(thresholds={})
    measured = measure_sites(prepared, chosen, tuned, prepared.sites)
    summary = summarise(prepared, finished, 2, tuned, measured)
    assert summary["temperature"] is summary["calibration"] is summary["operating"] is None
    assert summary["sites"]["east"]["ece_before"] == summary["sites"]["east"]["ece"]
    point = summary["sites"]["east"]["operating"]["lung_n"]
    assert (point["threshold"], point["sensitivity"]) == (None, None)
    assert point["positives"] > 0
    print_outcome(Terminal(), summary | {"timings": {"total": 1.0}}, "run", "off")
    assert "Not calibrated" in capsys.readouterr().out


def test_one_site_without_validation_patches_counts_for_nothing(prepared):
    chosen = chosen_of(prepared)
    alone = calibrate(prepared, chosen, ["north"])
    store = prepared.sites["south"].store
    prepared.sites["south"].store = replace(store, splits=store.splits | {"val": np.empty(0, dtype=np.int64)})
    assert calibrate(prepared, chosen, ["north", "south"]) == alone
    assert alone.fit["sites"] == ["north"]


def test_a_class_no_site_has_gets_no_threshold(prepared):
    for site in prepared.sites.values():
        site.store = replace(site.store, labels=np.where(site.store.labels == 1, 2, site.store.labels))
    chosen = chosen_of(prepared)
    tuned = tune(prepared, chosen)
    assert set(tuned.thresholds) == {"lung_aca", "colon_n", "malignant"}
    measured = measure_sites(prepared, chosen, tuned, prepared.sites)
    point = measured.sites["east"]["operating"]["lung_n"]
    assert (point["threshold"], point["positives"], point["specificity"]) == (None, 0, None)
    assert measured.curves["east"]["roc"]["lung_n"] is None


def test_scores_that_are_not_finite_are_a_named_failure_everywhere(prepared, finished, capsys):
    broken = chosen_of(prepared)
    broken = replace(broken, weights=torch.full_like(broken.weights, float("nan")))
    with pytest.raises(SiteDiverged, match="scores on val data are not finite"):
        prepared.sites["north"].handle(
            TemperatureRequest(2, broken.weights, broken.buffers, ("val",), temperatures=(1.0,))
        )
    tuned = tune(prepared, broken)
    measured = measure_sites(prepared, broken, tuned, prepared.sites)
    summary = summarise(prepared, finished, 2, tuned, measured)
    assert tuned.temperature is None
    assert summary["sites"] == {}
    assert summary["pooled"] is None
    assert [f["site"] for f in summary["failures"] if f["phase"] == "validation"] == ["north", "south"]
    assert [f["site"] for f in summary["failures"] if f["phase"] == "test"] == sorted(SITES)
    assert all("not finite" in failure["reason"] for failure in summary["failures"])
    print_outcome(Terminal(), summary | {"timings": {"total": 1.0}}, "run", "off")
    assert "not finite" in capsys.readouterr().out


def test_no_held_out_site(prepared, finished, capsys):
    chosen = chosen_of(prepared)
    tuned = tune(prepared, chosen)
    summary = summarise(prepared, finished, 2, tuned, measure_sites(prepared, chosen, tuned, ["north", "south"]))
    assert summary["pooled"]["held_out"] is None
    assert summary["held_out"]["mean_auroc_ci"] is summary["held_out"]["mean_ece_before"] is None
    assert not any(key.startswith("pooled/held_out") for key in metric_names.federation_final(summary))
    print_outcome(Terminal(), summary | {"timings": {"total": 1.0}}, "run", "off")
    shown = capsys.readouterr().out
    assert "Temperature" in shown
    assert "thresholds" not in shown


def test_an_all_wrong_model_is_measured_and_said_to_be_no_better_than_chance(prepared, finished, capsys):
    for site in prepared.sites.values():
        rows = np.arange(len(site.store.labels))
        logits = site.evaluator.logits(chosen_of(prepared).weights, chosen_of(prepared).buffers, rows)
        site.store = replace(site.store, labels=logits.numpy().argmin(axis=1))
    chosen = chosen_of(prepared)
    tuned = tune(prepared, chosen)
    assert tuned.temperature > 1  # of few groups, so it does not go all the way to 20
    assert (tuned.fit["pulled"], tuned.fit["bound"]) == (True, "upper")
    summary = summarise(prepared, finished, 2, tuned, measure_sites(prepared, chosen, tuned, prepared.sites))
    assert summary["sites"]["east"]["accuracy"] == 0
    print_outcome(Terminal(), summary | {"timings": {"total": 1.0}}, "run", "off")
    assert "no better than chance" in capsys.readouterr().out
