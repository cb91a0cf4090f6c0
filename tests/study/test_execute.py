"""Studies: which runs a file asks for, what is done once, what a kill leaves, and what is said of the result."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import time

import pytest
import yaml
from typer.testing import CliRunner

from medfl.cli.app import app
from medfl.config import SiteAbout
from medfl.errors import MedflError, RunFailed
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.study import execute
from medfl.study.analysis import result
from medfl.study.content_key import content_key
from medfl.study.execute import carry_out, missing
from medfl.study.study_file import leave_one_site_out, load_study
from medfl.study.study_tables import RunRows, Tables
from medfl.study.text_tables import headline, markdown
from medfl.tracking.sync_state import locked
from tests.processes import quick_processes
from tests.runfolders import tracking
from tests.tiny import write_tiny

METHODS = {"fedavg": [], "ecgr": ["ecgr"]}
STUDY = {"name": "tiny", "pipeline": "tiny.yaml", "seeds": [1, 2], "methods": METHODS, "brackets": False}
STUDY |= {"design": "design.md", "endpoints": {"primary": [{"figure": "drift", "scale": "log"}]}}
TABLES = ("runs.csv", "sites.csv", "curves.csv", "study.json", "tables.md")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a pipeline and a study of it."""
    folder = tmp_path_factory.mktemp("study")
    write_tiny(folder, training={"local_steps": 2})
    (folder / "design.md").write_text("ECGR drifts less.\n")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def finished(files):
    """The folder of the study, carried out by the command."""
    out = files / "out"
    medfl("study", files / "study.yaml", "--out", out)
    return out


def medfl(*arguments):
    """A command in this process; what it printed. Errors are raised."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception:
        raise done.exception
    return done.output


def altered(files, name="other.yaml", **changes):
    """A study file beside the others, with changes."""
    path = files / name
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return path


def test_the_design_that_runs_were_carried_out_under_is_in_the_results(files, finished):
    digest = hashlib.sha256(b"ECGR drifts less.\n").hexdigest()
    study = load_study(files / "study.yaml")
    found = result(study, Tables.load(finished), {})
    assert found["design"] == {"file": "design.md", "sha256": digest, "runs": {digest: 4}}
    assert f"sha256 {digest}." in markdown(found)
    assert "undecided with 2 distinct federations; 5 are needed." in markdown(found)
    assert digest[:12] in (finished / "report.html").read_text()
    changed = result(dataclasses.replace(study, design="0" * 64), Tables.load(finished), {})
    assert f"CHANGED SINCE: 4 under {digest[:12]}, of 4 runs" in markdown(changed)


def test_every_method_with_every_seed_and_the_brackets(files):
    study = load_study(altered(files, brackets=True))
    assert study.methods == ["fedavg", "ecgr", "local_only", "centralised"]
    assert [(run.seed, run.method) for run in study.runs] == [(s, m) for s in (1, 2) for m in study.methods]
    assert len({run.key for run in study.runs}) == 8
    assert all(run.pipeline.seed == run.seed for run in study.runs)
    assert study.figure == "held_out_mean_auroc"


def test_partitions_and_methods_set_keys(files):
    methods = {"a": [], "b": {"method": ["fedprox"], "set": {"training.optimizer.lr": 0.5}}}
    partitions = {"skew": {"sites.generate.dirichlet_alpha": 0.3}, "even": {}}
    study = load_study(altered(files, methods=methods, partitions=partitions, seeds=[1]))
    assert [(run.partition, run.method) for run in study.runs] == [(p, m) for p in ("skew", "even") for m in ("a", "b")]
    assert [run.pipeline.training.optimizer.lr for run in study.runs] == [0.02, 0.5, 0.02, 0.5]
    assert study.runs[0].pipeline.sites != study.runs[2].pipeline.sites


def test_the_key_is_of_what_decides_the_figures(files):
    def key(*overrides):
        return content_key(load_pipeline(files / "tiny.yaml", overrides))

    base = key()
    assert key("name=other", "training.threads=2", "tracking.enabled=false", "data.cache=/elsewhere") == base
    different = [key("seed=6"), key("training.optimizer.lr=0.1"), key("method=[ecgr]"), key("data.tissue.seed=1")]
    assert len({base, *different}) == 5
    assert key("evaluation.patients=mean") == base
    assert key("evaluation.patients={top: 3}") != base


def test_what_a_site_says_of_its_data_is_no_part_of_the_key(files):
    pipeline = load_pipeline(files / "tiny.yaml")
    spoken = [site.model_copy(update={"about": SiteAbout(owner="A hospital")}) for site in pipeline.train_sites]
    sites = pipeline.sites.model_copy(update={"train": spoken})
    assert content_key(pipeline.model_copy(update={"sites": sites})) == content_key(pipeline)


def test_folds_leave_each_site_out_and_never_touch_the_held_out_ones(files):
    study = leave_one_site_out(files / "tiny.yaml")
    assert [run.fold for run in study.runs] == ["site-01", "site-02", "site-03"]
    for run in study.runs:
        assert [site.name for site in run.pipeline.held_out_sites] == [run.fold]
        assert run.fold not in {site.name for site in run.pipeline.train_sites}
        assert "held-out-01" not in {site.name for site in run.pipeline.all_sites}


def test_leaving_each_site_out_in_turn(files, tmp_path):
    said = medfl("study", "--leave-one-site-out", files / "tiny.yaml", "--out", tmp_path)
    assert "ONE SEED" in said
    lines = [row for rows in Tables.load(tmp_path).rows.values() for row in rows.sites]
    unseen = [row for row in lines if (row["role"], row["model"]) == ("held_out", "global")]
    assert sorted(row["site"] for row in unseen) == ["site-01", "site-02", "site-03"]
    found = json.loads((tmp_path / "study.json").read_text())
    (method,) = found["partitions"]["as_stated"]["methods"].values()
    aurocs = [float(row["auroc"]) for row in unseen]
    assert method["figures"]["held_out_mean_auroc"]["mean"] == pytest.approx(sum(aurocs) / 3)
    assert method["runs"] == 3
    first = next(row for row in unseen if row["site"] == "site-01")
    assert f"{float(first['auroc']):.3f} [{float(first['auroc_low']):.3f}, {float(first['auroc_high']):.3f}]" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pipeline": "nowhere.yaml"}, "there is no pipeline file"),
        ({"seeds": []}, "`seeds`"),
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"methods": {}}, "`methods`"),
        ({"methods": {"a": ["fedavgg"]}}, "method a"),
        ({"sedes": [1]}, 'Did you mean "seeds"'),
        ({"partitions": {"p": {"training.momentum": 1}}}, "partition p"),
        ({"figure": "test_accuracy"}, "`figure`"),
        ({"partitions": {"all partitions": {}}}, "choose another name"),
    ],
)
def test_bad_study_files_are_refused_in_a_sentence(files, changes, sentence):
    with pytest.raises(MedflError, match=r"other\.yaml") as refused:
        load_study(altered(files, **changes))
    assert sentence in str(refused.value)


def test_a_pipeline_is_no_study(files):
    with pytest.raises(MedflError, match="is a pipeline file, not a study"):
        load_study(files / "tiny.yaml")


def test_two_sites_are_too_few_to_leave_one_out(files):
    with pytest.raises(MedflError, match="needs 3 training sites"):
        leave_one_site_out(files / "tiny.yaml", ["sites.generate.count=2"])


def test_the_tables_hold_the_summaries_figures(finished, files):
    study, tables = load_study(files / "study.yaml"), Tables.load(finished)
    for run in study.runs:
        summary = json.loads((finished / "runs" / run.key / "summary.json").read_text())
        rows = tables.rows[run.key]
        assert float(rows.run["held_out_mean_auroc"]) == pytest.approx(summary["held_out"]["mean_auroc"], rel=1e-8)
        assert {row["site"] for row in rows.sites} == set(summary["sites"])
        assert [int(row["round"]) for row in rows.curve] == [0, 1, 2]
        assert not (finished / "runs" / run.key / "checkpoint").exists()


def test_the_result_is_made_of_the_tables(finished):
    found = json.loads((finished / "study.json").read_text())
    part = found["partitions"]["as_stated"]
    values = part["methods"]["ecgr"]["values"].values()
    assert part["methods"]["ecgr"]["figures"]["held_out_mean_auroc"]["mean"] == pytest.approx(sum(values) / 2)
    reference = part["methods"]["fedavg"]["values"]
    moved = [value - reference[repeat] for repeat, value in part["methods"]["ecgr"]["values"].items()]
    assert part["comparisons"]["ecgr"]["difference"]["mean"] == pytest.approx(sum(moved) / 2)
    assert part["comparisons"]["ecgr"]["pairs"] == 2  # one held-out site, two seeds


def test_nothing_is_trained_twice(finished, files):
    before = {name: (finished / name).read_bytes() for name in TABLES}
    shutil.rmtree(finished / "runs")  # the tables alone are enough to go on from
    assert "4 of them done" in medfl("study", files / "study.yaml", "--out", finished)
    assert not (finished / "runs").exists()
    assert {name: (finished / name).read_bytes() for name in TABLES} == before


@pytest.mark.parametrize("workers", ["quick", pytest.param("new", marks=pytest.mark.slow)])
def test_a_study_killed_in_the_middle_gives_the_same_tables(finished, files, tmp_path, monkeypatch, workers):
    """Killed while two workers train, which in a user's study are new processes."""
    if workers == "quick":
        monkeypatch.setattr("medfl.study.execute.WORKERS", quick_processes().get_start_method())
    out = tmp_path / "killed"
    command = ("study", files / "study.yaml", "--out", out, "--jobs", "2")
    process = quick_processes().Process(target=medfl, args=command)
    process.start()
    waited = time.monotonic()
    while not (out / "runs.csv").is_file() or len((out / "runs.csv").read_text().splitlines()) < 2:
        assert process.is_alive()
        assert time.monotonic() - waited < 120
        time.sleep(0.05)
    process.kill()
    process.join()
    assert not (out / "study.json").exists()
    with locked(out):  # a worker that is a fork holds the folder too, until it notices that its study has gone
        pass
    medfl("study", files / "study.yaml", "--out", out)
    assert {name: (out / name).read_bytes() for name in TABLES} == {
        name: (finished / name).read_bytes() for name in TABLES
    }


def test_the_runs_of_an_interrupted_study_end_with_it(files, tmp_path, monkeypatch):
    """Not only where a terminal interrupts its workers too."""
    monkeypatch.setattr("medfl.study.execute.WORKERS", quick_processes().get_start_method())
    out = tmp_path / "interrupted"
    command = ("study", files / "study.yaml", "--out", out, "--jobs", "2", "--set", "training.rounds=100000")
    process = quick_processes().Process(target=medfl, args=command)
    process.start()
    begun = time.monotonic()
    while len([*out.glob("runs/*/rounds.jsonl")]) < 2:
        assert process.is_alive()
        assert time.monotonic() - begun < 120
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    ended = not process.is_alive()
    process.kill()  # and its workers with it, should it be there still
    assert ended


def test_a_study_is_one_parent_in_mlflow_and_is_logged_once(finished, files):
    from mlflow.tracking import MlflowClient

    uri = tracking("a study").uri
    settings = [f"tracking.{key}" for key in ("enabled=true", f"uri={uri}", "experiment=a study")]
    settings = [word for setting in settings for word in ("--set", setting)]
    for _ in range(2):
        assert "MLflow: the study is run" in medfl("study", files / "study.yaml", "--out", finished, *settings)
    client = MlflowClient(uri)
    assert client.get_experiment_by_name("a study") is None  # runs have theirs, studies one of their own
    experiment = client.get_experiment_by_name("a study-studies").experiment_id
    logged = client.search_runs([experiment])
    (parent,) = [run for run in logged if run.data.tags["role"] == "study"]
    children = [run for run in logged if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4
    found = json.loads((finished / "study.json").read_text())["partitions"]["as_stated"]["methods"]["ecgr"]
    mean = found["figures"]["held_out_mean_auroc"]["mean"]
    assert parent.data.metrics["as_stated/ecgr/held_out_mean_auroc"] == pytest.approx(mean)
    figures = [run.data.metrics["held_out_mean_auroc"] for run in children if run.data.params["method"] == "ecgr"]
    assert sum(figures) / 2 == pytest.approx(mean)
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= set(TABLES)


def test_other_data_behind_the_same_study_is_trained_again(finished, files):
    text = (finished / "runs.csv").read_text()
    first = text.splitlines()[1]
    digest = Tables.load(finished).rows[load_study(files / "study.yaml").runs[0].key].run["data"]
    (finished / "runs.csv").write_text(text.replace(first, first.replace(digest, "0" * 12)))
    ended = []
    failed = carry_out(load_study(files / "study.yaml"), finished, on_finished=ended.append)
    assert not failed
    assert [done.run.title for done in ended] == ["as_stated · fedavg · seed 1"]
    assert (finished / "runs.csv").read_text() == text


def test_other_contents_behind_the_same_names_are_trained_again(finished, files):
    text, noted = (finished / "runs.csv").read_text(), json.loads((finished / "contents.json").read_text())
    study = load_study(files / "study.yaml")
    assert set(noted["runs"]) == {run.key for run in study.runs}
    for key, titles in ((noted["key"], ["as_stated · fedavg · seed 1"]), ("another", [])):  # as on another machine
        changed = {"key": key, "runs": noted["runs"] | {study.runs[0].key: "0" * 12}}
        (finished / "contents.json").write_text(json.dumps(changed))
        ended = []
        assert not carry_out(study, finished, on_finished=ended.append)
        assert [done.run.title for done in ended] == titles
        assert json.loads((finished / "contents.json").read_text()) == noted
        assert (finished / "runs.csv").read_text() == text


def test_a_failed_run_is_named_and_the_others_are_kept(files, tmp_path):
    methods = {"fedavg": [], "wild": {"method": [], "set": {"training.optimizer.lr": 1e30, "training.rounds": 4}}}
    path = altered(files, "wild.yaml", methods=methods, seeds=[1])
    with pytest.raises(RunFailed, match="1 of 2 runs failed"):
        medfl("study", path, "--out", tmp_path)
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["done"] == 1
    assert "rounds in a row had no quorum" in found["failed"]["as_stated · wild · seed 1"]
    assert [run.method for run in missing(load_study(path), tmp_path)] == ["wild"]
    said = (tmp_path / "tables.md").read_text()
    assert "ONE SEED" in said
    assert "proves nothing" in said


def test_the_brackets_frame_the_result(files, tmp_path):
    medfl("study", altered(files, methods={"fedavg": []}, brackets=True, seeds=[1]), "--out", tmp_path)
    part = json.loads((tmp_path / "study.json").read_text())["partitions"]["as_stated"]
    assert set(part["brackets"]) == {"local_only", "centralised"}
    assert part["methods"]["local_only"]["share_of_gap"] in (0.0, None)
    assert "between local_only" in (tmp_path / "tables.md").read_text()


def test_what_was_dealt_to_plan_a_run_is_what_it_trains_on(files, tmp_path, monkeypatch):
    def again(pipeline):
        raise AssertionError("dealt twice")

    monkeypatch.setattr("medfl.pipeline.prepare.make_partition", again)
    study = load_study(altered(files, methods={"fedavg": [], "alone": ["local_only"]}, seeds=[1]))
    assert carry_out(study, tmp_path) == []


def test_tables_are_written_seldom_where_that_takes_long(monkeypatch):
    clock, done = [0.0], []
    monkeypatch.setattr(execute.time, "perf_counter", lambda: clock[0])

    def save():
        done.append(clock[0])
        clock[0] += 1.0

    seldom = execute._Seldom(save)
    for _ in range(100):
        seldom.when_due()
        clock[0] += 0.5
    assert len(done) <= 1 + 50 * execute.WRITING_SHARE


def test_a_run_in_workers_is_the_same_run_and_shares_the_cores_itself(files):
    path = altered(files, methods={"fedavg": []})
    study = load_study(path)
    other = load_study(path, ["training.workers=2", "training.threads=null"])
    assert [run.key for run in other.runs] == [run.key for run in study.runs]
    assert execute._quiet(other.runs[0], 2).training.threads is None
    assert "2 workers of 1 thread each" in execute.core_sentences(other, 1)[0]


def test_a_run_has_its_share_of_the_cores_or_what_the_environment_says(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert execute._threads(jobs=3) is None  # which every run then reads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [execute._threads(jobs) for jobs in (1, 3, 20)] == [8, 2, 1]


def test_a_baseline_is_stated_by_its_key_or_as_a_chain(files):
    methods = {"fedavg": [], "alone": {"baseline": "local_only"}, "pooled": {"method": ["centralised"]}}
    study = load_study(altered(files, methods=methods, seeds=[1], brackets=True))
    assert study.methods == ["fedavg", "alone", "pooled"]
    assert [run.pipeline.baseline for run in study.runs] == [None, "local_only", "centralised"]
    assert all(run.pipeline.method == [] for run in study.runs)


def test_a_deal_that_fails_names_its_run(files, tmp_path):
    path = altered(files, partitions={"greedy": {"sites.generate.patches": 4000}})
    with pytest.raises(MedflError, match=r"greedy · fedavg · seed 1: .*more patches than"):
        carry_out(load_study(path), tmp_path)


def test_damaged_tables_are_refused(finished, files, tmp_path):
    for name in ("runs.csv", "sites.csv", "curves.csv"):
        shutil.copy(finished / name, tmp_path / name)
    (tmp_path / "runs.csv").write_text("partition,method\na,b\n")
    with pytest.raises(MedflError, match=r"runs\.csv is no table"):
        Tables.load(tmp_path)


@pytest.mark.parametrize("lost", ["sites.csv", "curves.csv"])
def test_runs_without_the_tables_of_their_sites_or_rounds_are_not_thrown_away(finished, files, tmp_path, lost):
    for name in {"runs.csv", "sites.csv", "curves.csv"} - {lost}:
        shutil.copy(finished / name, tmp_path / name)
    runs = (tmp_path / "runs.csv").read_text()
    with pytest.raises(MedflError, match=rf"runs\.csv has 4 runs, and {lost} beside it.* is gone; put it back"):
        carry_out(load_study(files / "study.yaml"), tmp_path)
    assert (tmp_path / "runs.csv").read_text() == runs


def test_a_run_that_is_not_in_all_three_tables_is_not_done(finished, tmp_path):
    """A kill may fall between the tables."""
    whole = {name: (finished / name).read_text().splitlines(keepends=True) for name in TABLES[:3]}
    key = Tables.load(finished).rows.popitem()[0]
    for name in TABLES[:3]:
        for other in TABLES[:3]:
            kept = [line for line in whole[other] if other != name or key not in line]
            (tmp_path / other).write_text("".join(kept))
        assert len(Tables.load(tmp_path).rows) == 3


def test_a_run_under_two_names_has_its_rows_once(finished, files, tmp_path):
    study = load_study(altered(files, methods={"fedavg": [], "again": []}))
    tables = Tables.load(finished)
    for _ in range(3):
        tables.save(tmp_path, study.runs)
        tables = Tables.load(tmp_path)
    rows = tables.rows[study.runs[0].key]
    assert len([row for row in rows.sites if row["model"] == "global"]) == 4
    assert len(rows.curve) == 3


def test_folds_that_are_not_all_there_are_left_out(files):
    study = leave_one_site_out(files / "tiny.yaml")
    row = {"chain": "fedavg", "held_out_mean_auroc": "0.9"}
    tables = Tables({run.key: RunRows(row, [{}], [{}]) for run in study.runs[:2]})
    found = result(study, tables, {})
    assert (found["done"], found["partitions"]["as_stated"]["methods"]) == (2, {})


def test_a_study_without_results_says_so(files):
    study = load_study(files / "study.yaml")
    found = result(study, Tables(), {})
    assert "NOT FINISHED: 0 of 4" in " ".join(headline(found))
    assert markdown(found)
