"""The account of patients: the budget lasts for the planned rounds, repeated ones count, and a run says what."""

import pytest
from opacus.accountants import RDPAccountant

from medfl.cli.console_tables import print_outcome
from medfl.cli.terminal import Terminal
from medfl.config import DpSgd
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.report.run_report import report_html
from medfl.runs.patient_ledger import PatientLedger, patient_epsilon, patient_noise, sampling_rate
from tests.tiny import WITH_BATCHNORM, write_tiny


def record(round_, **samples):
    sites = {name: {"samples": count, "steps": 4} for name, count in samples.items()}
    return {"round": round_, "participants": ["a", "b"], "counted": True, "sites": sites, "update": None}


def test_epsilon_is_that_of_opacus():
    accountant = RDPAccountant()
    accountant.history = [(1.3, 0.1, 400)]
    assert patient_epsilon(1.3, 0.1, 400, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.02)


def test_the_least_noise_with_which_the_budget_lasts():
    noise = patient_noise(3.0, 1e-5, 0.1, 400)
    assert 2.9 < patient_epsilon(noise, 0.1, 400, 1e-5) <= 3.0
    assert patient_epsilon(noise * 0.99, 0.1, 400, 1e-5) > 3.0
    with pytest.raises(MedflError, match="no noise below a million"):
        patient_noise(1e-9, 1e-5, 1.0, 400)


def test_every_site_has_its_own_noise_and_no_more_rounds_than_planned(tmp_path):
    ledger = PatientLedger(DpSgd(epsilon=3.0), 8, 2, tmp_path / "privacy.jsonl")
    assert sampling_rate(8, 4) == 1
    half = ledger.spend(record(0, a=80, b=400))["privacy"]["epsilon"]
    assert 0 < half < 3
    assert not ledger.exhausted()
    again = PatientLedger(DpSgd(epsilon=3.0), 8, 2, tmp_path / "privacy.jsonl")  # killed, and round 0 is repeated
    assert again.spend(record(0, a=80))["privacy"]["epsilon"] <= 3
    assert again.exhausted()
    sites = again.facts()["sites"]
    assert {name: entry["rounds"] for name, entry in sites.items()} == {"a": 2, "b": 2}  # b may have trained
    assert sites["a"]["noise"] > sites["b"]["noise"]
    assert all(2.9 < entry["epsilon"] <= 3 for entry in sites.values())


def test_a_run_spends_its_budget_and_says_so(tmp_path, capsys):
    changes = ["training={rounds: 2, local_steps: 2, batch_size: 8, threads: 1, dp_sgd: {epsilon: 4, clip: 0.1}}"]
    changes += ["model={backbone: test_efficientnet_gn}", "training.secure_aggregation=true"]
    outcome = run(load_pipeline(write_tiny(tmp_path, model=WITH_BATCHNORM), changes), tmp_path / "run")
    spent = outcome.summary["privacy"]
    assert spent["unit"] == "patient"
    assert 3.9 < spent["epsilon"] <= 4
    assert len(spent["sites"]) == 3
    epsilons = [each["privacy"]["epsilon"] for each in outcome.folder.records()]
    assert 0 < epsilons[0] < epsilons[1] == epsilons[2] == spent["epsilon"]
    assert "one of its patients took part" in report_html(outcome.folder.path)
    print_outcome(Terminal(), outcome.summary, "here", "MLflow: off")
    assert f"Privacy of each patient: epsilon {spent['epsilon']:.3g} at delta 1e-05" in capsys.readouterr().out
    with pytest.raises(MedflError, match=r"test_byobnet has BatchNorm, whose statistics .* mix the patients"):
        run(load_pipeline(write_tiny(tmp_path, model=WITH_BATCHNORM), changes[:1]), tmp_path / "other")
