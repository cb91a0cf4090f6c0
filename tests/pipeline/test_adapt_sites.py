"""A run that adapts: its plain figures are those of a run that does not, and the others stand beside them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from typer.testing import CliRunner

from medfl import config
from medfl.cli.app import app
from medfl.errors import GateFailed, MedflError, RunFailed
from medfl.messages import Reply
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.temperature import temperature_sums
from medfl.pipeline import adapt_sites
from medfl.pipeline.adapt_sites import AdaptationPlan, choose
from medfl.pipeline.evaluate_model import evaluate, measure_model
from medfl.pipeline.final_evaluation import SelectedModel, Tuning
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.predict_adapted import predict_adapted
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import run
from medfl.pipeline.trained_model import find_model
from medfl.report.run_report import report_html
from medfl.runs.adapted_figures import adaptation_sentences, adapted_tables
from medfl.runs.gates import gate_results
from medfl.runs.records import read_json
from medfl.study.study_tables import site_rows
from medfl.tracking import metric_names
from medfl.tracking.model_card import model_card
from tests.tiny import WITH_BATCHNORM, tiny

EVEN = {"lung_aca": 0.4, "lung_n": 0.3, "colon_n": 0.3}
SITES = {
    "train": [{"name": "north", "patches": 60}, {"name": "south", "patches": 60}],
    "held_out": [
        {"name": "east", "patches": 72, "class_mix": EVEN, "stain": "brownish_old"},
        {"name": "west", "patches": 12, "class_mix": EVEN},
    ],
}
ONCE = {"rounds": 1, "local_steps": 6}
REMEDY = ["normalise", "class_mix"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(
        load_pipeline(tiny(model=WITH_BATCHNORM, sites=SITES, training=ONCE)), tmp_path_factory.mktemp("runs") / "plain"
    )


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    pipeline = load_pipeline(tiny(model=WITH_BATCHNORM, sites=SITES, training=ONCE, adapt={"remedy": REMEDY}))
    return run(pipeline, tmp_path_factory.mktemp("runs") / "adapted")


def test_the_plain_figures_are_those_of_a_run_that_does_not_adapt(plain, adapted):
    kept = {
        name: {k: v for k, v in entry.items() if k != "adapted"} for name, entry in adapted.summary["sites"].items()
    }
    assert kept == plain.summary["sites"]
    for key in ("held_out", "train_sites", "pooled", "calibration", "operating", "temperature"):
        assert adapted.summary[key] == plain.summary[key]
    for name in ("model.safetensors", "curves.json", "rounds.jsonl", "allocation_summary.csv"):
        assert (adapted.folder.path / name).read_bytes() == (plain.folder.path / name).read_bytes()
    assert "adaptation" not in plain.summary


def test_what_was_done_stands_in_summary_and_model(adapted):
    east, west = (adapted.summary["sites"][name]["adapted"] for name in ("east", "west"))
    assert east["steps"] == REMEDY
    assert east["figures"]["n"] == east["plain"]["n"] == adapted.summary["sites"]["east"]["n"] - east["patches"]
    assert west["left_out"] == dict.fromkeys(REMEDY, "few_groups")
    facts = read_json(adapted.folder.model_json)
    assert facts["adaptation"]["remedy"] == "normalise+class_mix"
    assert len(facts["adaptation"]["reference"]) == 6
    assert sum(facts["training_mix"]) == pytest.approx(1)
    assert adapted.summary["adaptation"]["held_out"]["sites"] == ["east"]
    assert adapted.summary["adaptation"]["held_out"]["mean_auroc"] == east["figures"]["auroc"]
    assert "adapted" not in adapted.summary["sites"]["north"]
    for part in (east["figures"], east["plain"]):
        assert part["patients"]["n"] == part["patients"]["n_groups"] == part["n_groups"]
        assert (
            part["patients"]["operating"]["malignant"]["threshold"]
            == adapted.summary["operating"]["patients"]["thresholds"]["malignant"]
        )


def test_the_figures_stand_wherever_figures_stand(adapted, plain):
    summary, folder = adapted.summary, adapted.folder
    (_, headings, rows), *by_unit = adapted_tables(summary["sites"])
    assert [row[:2] for row in rows] == [["east", "normalise+class_mix"], ["west", "none"]]
    assert all(len(row) == len(headings) for row in rows)
    sentences = " ".join(adaptation_sentences(summary))
    assert [title for title, *_ in by_unit] == ["Adapted at sites that never trained, per patient"]
    assert "west: too few source groups" in sentences
    page = report_html(folder.path)
    assert "Adapted at sites that never trained" in page
    assert rows[0][2] in page
    pipeline = {"name": "tiny", "data": {"source": "tissue"}, "training": {"rounds": 1}}
    card = model_card(summary, read_json(folder.model_json), pipeline)
    assert f"| east | normalise+class_mix | {rows[0][2]} |" in card
    values = metric_names.site_final(summary["sites"]["east"], None)
    east = summary["sites"]["east"]["adapted"]
    assert values["adapted/ece"] == east["figures"]["ece"]
    assert values["adapted/plain_ece"] == east["plain"]["ece"]
    assert metric_names.federation_final(summary)["adapted/mean_ece"] == summary["adaptation"]["held_out"]["mean_ece"]
    models = [row["model"] for row in site_rows(summary) if row["site"] == "east" and "per " not in row["model"]]
    assert models == ["global", "adapted normalise+class_mix", "plain, judged half"]
    assert adapted_tables(plain.summary["sites"]) == adaptation_sentences(plain.summary) == []


def test_gates_read_the_plain_figures_unless_they_say_otherwise(adapted):
    summary, east = adapted.summary, adapted.summary["sites"]["east"]
    bounds = config.Gates(held_out_ece_max=1, held_out_adapted_ece_max=1, held_out_adapted_auroc_min=0)
    alone = {"east": "held_out"}
    values = {result.gate: result.value for result in gate_results(summary, bounds, alone)}
    assert values["held_out_ece_max"] == summary["held_out"]["mean_ece"]
    assert values["held_out_adapted_ece_max"] == east["adapted"]["figures"]["ece"]
    assert values["held_out_adapted_auroc_min"] == east["adapted"]["figures"]["auroc_ci"][0]
    both = {result.gate: result for result in gate_results(summary, bounds, {**alone, "west": "held_out"})}
    assert both["held_out_adapted_ece_max"].value is None
    assert "adapted model's" in str(both["held_out_adapted_auroc_min"])


def test_a_trained_model_is_adapted_as_in_its_run(adapted, plain):
    result = evaluate(find_model(str(adapted.folder.path)), adapt=config.Adapt(remedy=REMEDY))
    assert result["sites"]["east"]["adapted"] == adapted.summary["sites"]["east"]["adapted"]
    assert result["adaptation"]["held_out"] == adapted.summary["adaptation"]["held_out"]
    chosen = evaluate(find_model(str(adapted.folder.path)), adapt=config.Adapt(remedy="auto"))
    assert chosen["sites"]["east"]["adapted"]["steps"] == REMEDY
    other = find_model(str(plain.folder.path))
    with pytest.raises(MedflError, match="holds no stain to normalise to"):
        evaluate(other, adapt=config.Adapt(remedy="normalise"))
    with pytest.raises(MedflError, match="names none"):
        evaluate(other, adapt=config.Adapt(remedy="auto"))
    assert evaluate(other, adapt=config.Adapt(remedy="batchnorm"))["sites"]["east"]["adapted"]["patches"] > 0


def test_a_folder_of_patches_is_scored_by_the_adapted_model(adapted, tmp_path):
    setup = prepare(load_pipeline(adapted.folder.pipeline))
    for number, image in enumerate(setup.sites["east"].store.images[:20]):
        Image.fromarray(np.asarray(image)).save(tmp_path / f"{number:02}.png")
    model, site = find_model(str(adapted.folder.path)), config.SiteConfig(name="new", class_mix=EVEN)
    rows, said = predict_adapted(model, tmp_path, config.Adapt(remedy=REMEDY), site)
    assert len(rows) == 20
    assert sum(rows[0][1]) == pytest.approx(1)
    assert said == ["Adapted by normalise+class_mix on 20 of these patches"]
    _without, said = predict_adapted(model, tmp_path, config.Adapt(remedy="class_mix"), None)
    assert said[0].startswith("Not adapted")
    done = CliRunner().invoke(app, ["predict", str(adapted.folder.path), str(tmp_path), "--adapt", "em"])
    assert isinstance(done.exception, MedflError)
    assert "em alone is refused" in str(done.exception)
    (tmp_path / "few").mkdir()
    (tmp_path / "00.png").rename(tmp_path / "few" / "00.png")
    with pytest.raises(MedflError, match="holds 1 patches, and adapting takes 16"):
        predict_adapted(model, tmp_path / "few", config.Adapt(remedy=REMEDY), site)


def test_the_command_writes_them_beside_the_plain_ones(adapted, tmp_path):
    command = ["evaluate", str(adapted.folder.path), "--adapt", "class_mix", "--json", str(tmp_path / "out.json")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "Adapted at sites that never trained" in done.output
    assert json.loads((tmp_path / "out.json").read_text())["sites"]["east"]["adapted"]["steps"] == ["class_mix"]


def test_a_model_over_bags_of_features_is_not_adapted(tmp_path):
    bags = SimpleNamespace(reads_bags=True)
    with pytest.raises(MedflError, match="--adapt is for models that see images"):
        predict_adapted(bags, tmp_path, config.Adapt(remedy="class_mix"), None)
    with pytest.raises(MedflError, match="--adapt is for models that see images"):
        measure_model(bags, [], adapt=config.Adapt(remedy="class_mix"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"backbone": "test_vit"}, "test_vit has no BatchNorm"),
        ({"backbone": "test_resnet", "train": "head"}, "statistics of test_resnet are frozen"),
    ],
)
def test_a_network_without_moving_statistics_is_refused(model, said):
    with pytest.raises(MedflError, match=f"`adapt.remedy`: .*{said}.*take normalise or class_mix"):
        prepare(load_pipeline(tiny(model=model, adapt={"remedy": "batchnorm"})))


@pytest.fixture(scope="module")
def setup():
    return prepare(load_pipeline(tiny(model=WITH_BATCHNORM, sites=SITES, adapt={"remedy": "auto"})))


def chosen_by(setup, monkeypatch, *sites, sentences=None):
    """What `auto` chooses where training sites answer with these NLLs by remedy."""
    asked = []

    def reply(setup_, chosen, names, lost, question):
        request = question(0, None, None, last_accepted_round=-1)
        asked.append((sorted(names), request))
        for nll in sites:
            figures = {name: {"nll": nll.get(name, 9.0), "n": nll["n"]} for name in ("none", *request.remedies)}
            yield Reply("north", 0, metrics=figures)

    monkeypatch.setattr(adapt_sites, "answers", reply)
    plan = AdaptationPlan("auto", 64, (0.4, 0.3, 0.3), (0.5,) * 6)
    model = SelectedModel(0, *[setup.shared.model.weights()] * 2)
    heard = [] if sentences is None else sentences
    return choose(setup, model, Tuning(), plan, heard.append), asked[0]


def test_auto_asks_training_sites_alone_for_their_validation_data_in_another_laboratory(setup, monkeypatch):
    plan, (names, request) = chosen_by(
        setup, monkeypatch, {"n": 9, "none": 0.5, "batchnorm": 0.3}, {"n": 9, "none": 0.2, "batchnorm": 0.3}
    )
    assert names == ["north", "south"]
    assert request.splits == ("val",)
    assert request.laboratory == adapt_sites.LABORATORY
    assert plan.remedy == "batchnorm"
    assert plan.trials["batchnorm"] == {"nll": pytest.approx(0.3), "sites": 2}


def test_an_adapted_model_has_a_temperature_of_its_own(setup, monkeypatch):
    """Fitted to training sites alone, as far as they could be adapted; without any the plain model's counts."""
    asked, labels = [], np.arange(60) % 3
    sharp = np.log(np.full((60, 3), 0.1) + 0.7 * np.eye(3)[np.where(np.arange(60) % 2, labels, 0)]) * 3

    def reply(setup_, chosen, names, lost, question):
        request = question(0, None, None, last_accepted_round=-1)
        asked.append((sorted(names), request))
        part = slice(0, 0) if len(names) < 2 else slice(None)
        own = temperature_sums(sharp[part], labels[part], request.temperatures, np.arange(60)[part])
        yield Reply("north", 0, sums={"val": {"temperatures": own.to_lists()}})

    monkeypatch.setattr(adapt_sites, "answers", reply)
    plan = AdaptationPlan("normalise+class_mix", 64, (0.4, 0.3, 0.3), (0.5,) * 6)
    tuned = Tuning(Calibration(2.5))
    made = adapt_sites._calibrated(setup, None, tuned, plan)
    names, request = asked[0]
    assert names == ["north", "south"]
    assert (request.splits, request.remedies, request.temperature) == (("val",), ("normalise",), 1.0)
    assert made.temperature == pytest.approx(fitted(sharp, labels), rel=1e-4)
    assert made.request(tuned, setup.pipeline)(0, None, None).temperature == made.temperature
    assert made.facts()["temperature"] == made.temperature
    shift_only = AdaptationPlan("class_mix", 64, (0.4, 0.3, 0.3))
    assert adapt_sites._calibrated(setup, None, tuned, shift_only).temperature is None
    assert shift_only.request(tuned, setup.pipeline)(0, None, None).temperature == 2.5


def test_a_site_lost_between_two_messages_counts_in_neither(setup, monkeypatch):
    """As with the plain model's temperature, the fit starts over without it."""
    labels = np.arange(60) % 3
    own = {
        "north": np.log(np.full((60, 3), 0.1) + 0.7 * np.eye(3)[np.where(np.arange(60) % 2, labels, 0)]) * 3,
        "south": np.random.default_rng(0).normal(0, 4, (60, 3)),
    }
    told = []

    def reply(setup_, chosen, names, lost, question):
        request = question(0, None, None, last_accepted_round=-1)
        for name in names:
            if name == "south" and "south" in told:
                lost[name] = "its line went down"
                continue
            told.append(name)
            sums = temperature_sums(own[name], labels, request.temperatures, np.arange(60))
            yield Reply(name, 0, sums={"val": {"temperatures": sums.to_lists()}})

    monkeypatch.setattr(adapt_sites, "answers", reply)
    plan = AdaptationPlan("normalise", 64, (0.4, 0.3, 0.3), (0.5,) * 6)
    made = adapt_sites._calibrated(setup, None, Tuning(Calibration(2.5)), plan)
    assert made.temperature == pytest.approx(fitted(own["north"], labels), rel=1e-4)
    assert [entry["site"] for entry in made.failures] == ["south"]


def fitted(logits, labels):
    return minimize_scalar(
        lambda t: temperature_sums(logits, labels, (t,)).nll[0], bounds=(0.05, 20), method="bounded"
    ).x


def test_auto_does_nothing_where_nothing_is_better_or_nothing_can_be_tried(setup, monkeypatch):
    assert chosen_by(setup, monkeypatch, {"n": 9, "none": 0.2})[0].remedy == "none"
    heard = []
    assert chosen_by(setup, monkeypatch, {"n": 0, "none": None}, sentences=heard)[0].remedy == "none"
    assert "no training site has validation data of enough source groups" in heard[0]


def test_auto_leaves_out_what_a_held_out_site_could_not_be_given(setup):
    plan = AdaptationPlan("auto", 64, (0.4, 0.3, 0.3), (0.5,) * 6)
    assert all(adapt_sites._possible(setup, plan, name) for name in adapt_sites.CANDIDATES)
    bare = setup.pipeline.model_copy(
        update={"sites": config.Sites(train=SITES["train"], held_out=[{"name": "east", "role": "held_out"}])}
    )
    other = SimpleNamespace(pipeline=bare, shared=setup.shared)
    left = [name for name in adapt_sites.CANDIDATES if adapt_sites._possible(other, plan, name)]
    assert left == ["normalise", "batchnorm", "normalise+em", "batchnorm+em"]
    no_stain = AdaptationPlan("auto", 64, (0.4, 0.3, 0.3))
    assert not adapt_sites._possible(setup, no_stain, "normalise+em")


def test_a_stain_that_nobody_tells_costs_the_step_and_not_the_run(setup, monkeypatch):
    def nobody(*args):
        raise RunFailed("no training site could tell its stain")

    monkeypatch.setattr(adapt_sites, "agree", nobody)
    heard = []
    chosen = SimpleNamespace(round=2, accepted={})
    assert adapt_sites._reference(setup, chosen, heard.append) == ()
    assert heard == ["Adaptation: without normalisation, since no training site could tell its stain"]


def test_a_gate_of_the_adapted_model_refuses(adapted):
    assert issubclass(GateFailed, MedflError)
    results = gate_results(adapted.summary, config.Gates(held_out_adapted_ece_max=0), {"east": "held_out"})
    assert not results[0].passed
