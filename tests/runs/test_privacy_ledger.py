"""A whole private run: epsilon in every record, the summary, MLflow's names, the report and the console; resumed."""

import json

import pytest
import torch
import yaml

from medfl.cli.console_tables import print_outcome
from medfl.cli.terminal import Terminal
from medfl.errors import MedflError
from medfl.federation.server_state import ServerState
from medfl.methods.differential_privacy import Dp
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import resume, run
from medfl.pipeline.run_callbacks import PrivacyAccount
from medfl.report.run_report import report_html
from medfl.runs.privacy_ledger import Ledger, best_guess, epsilon
from medfl.runs.progress import ProgressCallbacks
from medfl.tracking import metric_names

SMALL = {
    "disclosure": {"min_count": 1},  # its sites have a handful of source groups
    "name": "private",
    "seed": 3,
    "task": {"classes": ["lung_aca", "lung_n", "colon_n"]},
    "data": {"source": "tissue", "size": 32, "tissue": {"tiles_per_class": 24, "copies": 4, "size": 32}},
    "sites": {"generate": {"count": 3, "held_out": 1, "patches": 45, "dirichlet_alpha": 5.0}},
    "model": {"backbone": "test_efficientnet_gn"},
    "training": {"rounds": 3, "batch_size": 8, "local_steps": 2, "threads": 1, "sites_per_round": 2},
    "method": [{"name": "dp", "clip": 0.1, "noise": 0.5}],
    "evaluation": {"resamples": 100, "members": 20},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "private.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """Folder of a run that was stopped after two rounds, whose checkpoint of the second is lost, and resumed."""
    folder = tmp_path_factory.mktemp("runs") / "private"

    def stop(record, rounds):
        if record["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(load_pipeline(small), folder, ProgressCallbacks(round=stop))
    facts = json.loads((folder / "checkpoint" / "state.json").read_text())
    assert facts["round"] == 2
    return resume(folder).folder


def test_epsilon_in_every_record_and_never_falling(finished):
    records = finished.records()
    told = [record["privacy"] for record in records]
    assert len(told) == 4
    drawn = [json.loads(line)["sites"] for line in finished.privacy.read_text().splitlines()]
    assert drawn == [record["participants"] for record in records[:-1]]
    for t, entry in enumerate(told):
        counts = [sum(site in sites for sites in drawn[: t + 1]) for site in records[0]["sites"]]
        assert entry == {"epsilon": epsilon(0.5, max(counts), 1e-5), "delta": 1e-5}
    for record in records[:-1]:  # lengths without noise
        assert (record["update"]["mean_sq"], record["update"]["sq"]) == (None, None)
    assert finished.read_summary()["stability"]["drift"] is None
    assert told[0]["epsilon"] <= told[1]["epsilon"] <= told[2]["epsilon"] == told[3]["epsilon"]


def test_a_round_repeated_after_a_lost_checkpoint_counts_twice(finished, tmp_path):
    import shutil

    folder = tmp_path / "again"
    shutil.copytree(finished.path, folder)
    for name in ("summary.json", "rounds.jsonl"):
        (folder / name).unlink()
    for name in ("checkpoint", "checkpoint.old"):
        shutil.rmtree(folder / name, ignore_errors=True)
    again = resume(folder).folder
    lines = [json.loads(line) for line in again.privacy.read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 0, 1, 2]
    spent, once = again.read_summary()["privacy"], finished.read_summary()["privacy"]
    assert {site: own["rounds"] for site, own in spent["sites"].items()} == {
        site: 2 * own["rounds"] for site, own in once["sites"].items()
    }
    assert spent["epsilon"] == again.records()[-1]["privacy"]["epsilon"] > once["epsilon"]


def test_a_run_ends_before_its_budget_is_passed(small, tmp_path):
    budget = epsilon(0.5, 2, 1e-5) * 1.001
    dp = [{"name": "dp", "clip": 0.1, "noise": 0.5, "epsilon": budget}]
    plan = load_pipeline(SMALL | {"method": dp, "training": SMALL["training"] | {"sites_per_round": None}})
    assert plan.method == dp  # a stated noise stays
    folder = run(plan, tmp_path / "run").folder
    summary = folder.read_summary()
    assert [bool(record["participants"]) for record in folder.records()] == [True, True, False]
    assert summary["privacy"]["epsilon"] <= budget
    assert summary["stopped"]["round"] == summary["selected_round"] == 2
    assert "one more would have spent more than the epsilon of" in summary["stopped"]["reason"]
    with pytest.raises(MedflError, match=r"or the budget of `method\.dp`"):
        resume(folder.path, rounds=9)


def test_a_round_to_be_repeated_counts_before_it_is_begun():
    ledger = Ledger(Dp(noise=0.5, epsilon=epsilon(0.5, 2, 1e-5) * 1.001), None)
    ledger.releases = [{"round": 0, "sites": ["a"]}, {"round": 1, "sites": ["a", "b"]}]
    state = ServerState(1, torch.zeros(1), torch.zeros(1))  # the checkpoint of the second was lost
    PrivacyAccount(ledger, 3).before_run(state)
    assert state.closing == 1
    free = ServerState(1, torch.zeros(1), torch.zeros(1))
    PrivacyAccount(Ledger(Dp(noise=0.5), None, ledger.releases), 3).before_run(free)
    assert free.closing is None


def test_the_noise_of_a_budget_is_the_least_that_keeps_it():
    plan = load_pipeline(SMALL | {"method": [{"name": "dp", "clip": 0.1, "epsilon": 8}]})
    (entry,) = plan.method
    assert epsilon(entry["noise"], 3, 1e-5) <= 8 < epsilon(entry["noise"] * 0.98, 3, 1e-5)
    with pytest.raises(MedflError, match=r"`method\.dp\.epsilon`: no noise below 1e\+06"):
        load_pipeline(SMALL | {"method": [{"name": "dp", "epsilon": 1e-9}]})
    with pytest.raises(MedflError, match="`epsilon` must be a number above 0"):
        load_pipeline(SMALL | {"method": [{"name": "dp", "epsilon": -1}]})


def test_summary_metrics_report_and_console(finished, capsys):
    summary = finished.read_summary()
    spent = summary["privacy"]
    assert (spent["clip"], spent["noise"], spent["seeded"]) == (0.1, 0.5, False)
    assert spent["accountant"].startswith("opacus 1.")
    most = max(spent["sites"].values(), key=lambda own: own["rounds"])
    assert spent["epsilon"] == most["epsilon"] == epsilon(0.5, most["rounds"], 1e-5)
    members = {name: entry.get("membership") for name, entry in summary["sites"].items()}
    trained = [name for name, entry in summary["sites"].items() if entry["role"] == "train"]
    assert [name for name, own in members.items() if own] == trained
    own = members[trained[0]]
    assert (own["n_members"], own["n_others"]) == (20, summary["sites"][trained[0]]["n"])

    by_round = metric_names.federation_round(finished.records()[1])
    assert by_round["privacy/epsilon"] == finished.records()[1]["privacy"]["epsilon"]
    assert metric_names.federation_final(summary)["final/privacy/epsilon"] == spent["epsilon"]
    final = metric_names.site_final(summary["sites"][trained[0]], None)
    assert final["test/membership_auroc"] == own["auroc"]
    if own["auroc_ci"]:
        assert final["test/membership_auroc_low"] == own["auroc_ci"][0]

    page = report_html(finished.path)
    for words in ("Covered: the weights", "Not covered: everything else", "Can training patches be told?"):
        assert words in page
    assert f"{100 * best_guess(most['epsilon'], 1e-5):.2f} %" in page
    alone = report_html(finished.path, trained[0])
    assert "Covered: the weights" in alone
    assert not any(name in alone for name in trained[1:])

    print_outcome(Terminal(), summary, "here", "MLflow: off")
    printed = capsys.readouterr().out
    assert f"Privacy of a whole site: epsilon {spent['epsilon']:.3g} at delta 1e-05; weights only" in printed
    assert "Training patches told by their loss: AUROC at most" in printed


def test_a_seeded_run_says_that_it_is_not_private(small, tmp_path, capsys):
    changed = ["method=[{name: dp, seeded: true}]", "training.rounds=1", "evaluation.members=0"]
    done = run(load_pipeline(small, changed), tmp_path / "seeded")
    page = report_html(done.folder.path)
    assert "Not private: for tests." in page
    assert "Covered: the weights" not in page
    assert "Can training patches be told?" not in page
    print_outcome(Terminal(), done.summary, "here", "MLflow: off")
    printed = capsys.readouterr().out
    assert "NOT PRIVATE" in printed
    assert "epsilon" not in printed


def test_a_model_chosen_by_validation_figures_is_refused(small):
    with pytest.raises(MedflError, match="`select` picks a model by validation figures, which dp does not protect"):
        load_pipeline(small, ["select={metric: val_mean_auroc, mode: max}"])
