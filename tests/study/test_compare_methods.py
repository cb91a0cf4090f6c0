"""`medfl compare STUDY`: methods over the patients of held-out sites, means over seeds, and folders that hold none."""

import contextlib
import csv
import dataclasses
import shutil
import sys

import numpy as np
import pytest

from medfl.cli import app
from medfl.errors import MedflError
from medfl.metrics.delong import class_table
from medfl.metrics.paired_figures import mean_of_models, paired_figures
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.runs.folder import RunFolder
from medfl.study.compare_methods import compare_methods
from medfl.study.compare_runs import compare_runs
from tests.tiny import write_tiny


def study_of(folder, **runs):
    """A study's folder whose runs, `method_seed`, are copies of these; a run of None is gone."""
    rows = []
    for name, source in runs.items():
        method, seed = name.split("_")
        rows.append({"partition": "p", "method": method, "seed": seed, "fold": "", "key": name})
        if source is not None:
            shutil.copytree(source, folder / "runs" / name)
    with (folder / "runs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one partition, one with a quarter of the learning rate, and one of another seed."""
    folder = tmp_path_factory.mktemp("compared")
    file = write_tiny(folder, training={"rounds": 1})
    for name, keys in (("fast", []), ("slow", ["training.optimizer.lr=0.005"]), ("other", ["seed=8"])):
        run(load_pipeline(file, keys), folder / name)
    return folder


def auroc(found):
    (entry,) = [entry for entry in found.differences if entry.key == "auroc"]
    return entry


def test_one_seed_is_what_two_runs_say(runs, tmp_path):
    study = study_of(tmp_path, fast_1=runs / "fast", slow_1=runs / "slow", gone_1=None)
    (site,) = compare_runs(runs / "slow", runs / "fast")["sites"].values()
    found = compare_methods(study)
    entry, expected = auroc(found), site["figures"]["auroc"]
    assert [notice.partition(" have")[0] for notice in found.notices] == ["gone: 1 of 1 runs"]
    assert not found.leaky
    assert (entry.method, entry.against, entry.seeds, entry.groups) == ("slow", "fast", ("1",), site["n_groups"])
    assert entry.few == site["few_groups"]
    assert entry.figure.difference == pytest.approx(expected["difference"])
    assert entry.figure.interval() == pytest.approx(expected["ci"])
    assert auroc(compare_methods(study, "slow")).figure.difference == pytest.approx(-expected["difference"])


def test_seeds_are_averaged_and_those_with_other_patches_do_not_count(runs, tmp_path):
    """Seed 2 has the two models the other way round, so the mean difference is 0; seed 3 tests other patches."""
    pairs = {
        "fast_1": "fast",
        "slow_1": "slow",
        "fast_2": "slow",
        "slow_2": "fast",
        "fast_3": "fast",
        "slow_3": "other",
    }
    found = compare_methods(study_of(tmp_path, **{name: runs / run for name, run in pairs.items()}))
    assert found.notices == ["p held-out-01: seeds 3 test other patches than seed 1; they do not count."]
    entry = auroc(found)
    assert entry.seeds == ("1", "2")
    assert entry.figure.difference == pytest.approx(0.0, abs=1e-12)
    assert entry.figure.interval() is None  # nothing was seen to vary


def test_a_mean_over_models_varies_as_its_patients_do():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(12), 5)
    labels = rng.integers(2, size=60)
    table = class_table(labels, group, 12, 2)

    def pair(seed):
        scores = 1 / (1 + np.exp(-np.random.default_rng(seed).normal(labels - 0.5, 1, (2, 60))))
        return paired_figures(tuple(np.stack([1 - s, s], axis=1) for s in scores), labels, group, ("a", "b"))["auroc"]

    first, second = pair(1), pair(2)
    assert mean_of_models([first, first], table).interval() == pytest.approx(first.interval())
    same = dataclasses.replace(first, one=first.other, se=None, df=None, influence=np.zeros(12))  # two models agree
    assert mean_of_models([first, same], table).se == pytest.approx(first.se / 2)
    assert mean_of_models([first, dataclasses.replace(same, influence=None)], table).interval() is None
    both = mean_of_models([first, second], table)
    assert both.difference == pytest.approx((first.difference + second.difference) / 2)
    assert both.se == pytest.approx(np.sqrt(((first.influence + second.influence) ** 2).sum()) / 2)


def test_two_models_that_agree_are_known_to_and_have_no_interval():
    probs = np.full((20, 2), 0.5)
    labels, group = np.arange(20) % 2, np.arange(20) // 2
    figure = paired_figures((probs, probs), labels, group, ("a", "b"))["auroc"]
    assert figure.interval() is None
    assert not figure.influence.any()


def test_leaky_runs_and_withheld_sites_are_named(runs, tmp_path, monkeypatch, capsys):
    study = study_of(tmp_path, fast_1=runs / "fast", slow_1=runs / "slow")
    read = RunFolder.read_summary
    monkeypatch.setattr(RunFolder, "read_summary", lambda folder: read(folder) | {"leaky": True})
    monkeypatch.setattr(sys, "argv", ["medfl", "compare", str(study), "--out", str(tmp_path / "runs.csv" / "x.csv")])
    with contextlib.suppress(SystemExit):
        app.main()
    assert "there is no folder" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(sys, "argv", ["medfl", "compare", str(study)])
    with contextlib.suppress(SystemExit):
        app.main()
    assert "LEAKY: source groups were ignored" in capsys.readouterr().out
    monkeypatch.setattr("medfl.config.Pipeline.min_count", lambda pipeline, site: 10_000)
    with pytest.raises(MedflError, match="p held-out-01: withheld, for too few patients"):
        compare_methods(study)


def test_a_file_that_cannot_be_written_does_not_lose_the_table(runs, tmp_path, monkeypatch, capsys):
    study = study_of(tmp_path, fast_1=runs / "fast", slow_1=runs / "slow")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medfl.study.csv_rows.write_table", full)
    monkeypatch.setattr(sys, "argv", ["medfl", "compare", str(study), "--out", str(tmp_path / "x.csv")])
    with contextlib.suppress(SystemExit):
        app.main()
    said = capsys.readouterr()
    assert "held-out-01" in said.out
    assert "cannot be written: No space left" in " ".join(said.err.split())


def test_the_command_prints_and_writes_the_table(runs, tmp_path, monkeypatch, capsys):
    study = study_of(tmp_path, fast_1=runs / "fast", slow_1=runs / "slow")
    monkeypatch.setattr(sys, "argv", ["medfl", "compare", str(study), "--out", str(tmp_path / "patients.csv")])
    with contextlib.suppress(SystemExit):
        app.main()
    assert "against fast" in capsys.readouterr().out
    with (tmp_path / "patients.csv").open() as stream:
        rows = {row["figure"]: row for row in csv.DictReader(stream)}
    assert {"auroc", "balanced_accuracy", "brier", "ece"} <= set(rows)
    assert rows["auroc"]["site"] == "held-out-01"
    assert rows["ece"]["low"] == ""
    one, other, difference = (float(rows["auroc"][name]) for name in ("one", "other", "difference"))
    assert difference == pytest.approx(one - other, abs=2e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["STUDY", "--against", "nobody"], "--against nobody: no method of"),
        (["STUDY", "--out", "x.html"], "ends in .csv"),
        (["RUN"], "is one run; name the run that it is to be compared with"),
        (["EMPTY"], "is no folder of a study"),
        (["ALONE"], "no two models of one seed to compare with fast"),
        (["RUN", "RUN", "--against", "fast"], "--against is of a study's folder"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(runs, tmp_path, monkeypatch, capsys, arguments, said):
    (tmp_path / "study").mkdir()
    (tmp_path / "alone").mkdir()
    places = {
        "STUDY": study_of(tmp_path / "study", fast_1=runs / "fast", slow_1=runs / "slow"),
        "ALONE": study_of(tmp_path / "alone", fast_1=runs / "fast", slow_2=runs / "slow"),
        "RUN": runs / "fast",
        "EMPTY": tmp_path,
    }
    monkeypatch.setattr(sys, "argv", ["medfl", "compare", *(str(places.get(word, word)) for word in arguments)])
    with contextlib.suppress(SystemExit):
        app.main()
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_table_that_is_no_studys_is_refused(tmp_path):
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MedflError, match="is no table of a study"):
        compare_methods(tmp_path)
