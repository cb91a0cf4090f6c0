"""Server and sites in processes of their own, over mutual TLS: the same numbers as in one process, and nothing left.

Faults are real ones: processes are stopped and killed, a site's disk refuses to be written.
"""

import csv
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from medfl.engines.nvflare.launch import resume
from medfl.engines.nvflare.launch import run as far
from medfl.engines.nvflare.run_layout import laid_before
from medfl.engines.processes import MARK, Crew
from medfl.engines.remote.pieces import PIECE
from medfl.errors import RunFailed
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.runs.progress import ProgressCallbacks
from tests.engines.remote.test_bags_and_slides import consortium
from tests.engines.remote.test_endpoints import SMALL, STAINED, same_result
from tests.tiny import WITH_BATCHNORM

LINK = {"down": 50, "up": 10, "seconds_per_step": 0.1, "jitter": 0.3}
SITES = ("site-01", "site-02", "site-03")
CHAINS = {
    "ecgr": (["ecgr"], {}),
    "scaffold-ecgr": (["scaffold", "ecgr"], {}),
    "fedgmr": ([{"name": "fedgmr", "patience": 1}, "ecgr"], {"rounds": 6}),
    "fedbuff": ([{"name": "fedbuff", "buffer": 2}], {"rounds": 5}),
    "pflalign": (["pflalign"], {"optimizer": {"lr": 0.02, "momentum": 0.0}}),
}


def apart(folder: Path, count: int) -> Path:
    """Path of a pipeline of so many training sites, every one with a line and a capacity of its own."""
    path = folder / "apart.yaml"
    text = yaml.safe_dump(SMALL | {"sites": {"generate": {"count": count, "patches": 30, "dirichlet_alpha": 5.0}}})
    path.write_text(text)
    sites = [site.model_dump(mode="json", exclude_none=True) for site in load_pipeline(path).train_sites]
    for speed, site in enumerate(sites, start=1):
        site |= {"link": LINK | {"up": 2.0**speed, "seconds_per_step": 0.4 / speed}, "density": 1 - 0.2 * (3 - speed)}
    path.write_text(yaml.safe_dump(SMALL | {"sites": {"train": sites}}))
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Path of a pipeline with three training sites."""
    return apart(tmp_path_factory.mktemp("pipelines"), 3)


def chained(path: Path, chain: str, **training):
    method, changes = CHAINS[chain]
    pipeline = load_pipeline(path)
    settings = pipeline.training.model_dump(exclude_none=True) | changes | training
    changed = pipeline.model_dump(mode="json", exclude_none=True) | {"method": method, "training": settings}
    file = path.with_name(f"{chain}.yaml")
    file.write_text(yaml.safe_dump(changed))
    return load_pipeline(file)


def nothing_left(folder) -> None:
    """No process of the run, and no port that it listened on."""
    laid = laid_before(folder.path)
    assert Crew(laid.run).marked() == []
    if laid.engine == "poc":
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int((laid.home / "port").read_text()))) != 0


def discreet(folder) -> None:
    """Nothing that the server wrote or printed names a file, a folder or a source group of a site."""
    laid = laid_before(folder.path)
    kept = [laid.home / "server.log", laid.home / "server-job.log", *laid.server.iterdir()]
    text = "".join(file.read_text() for file in kept if file.name != "run.json")
    with folder.allocation.open() as stream:
        rows = [(row["group"], row["file"].partition("#")[0]) for row in csv.DictReader(stream)]
    words = {word for group, file in rows for word in (group, Path(file).name, str(Path(file).parent))}
    assert words
    assert [word for word in sorted(words) if word in text] == []


def the_same_far_away(pipeline, tmp_path, engine: str):
    """Carry a pipeline out in one process and with processes of their own; the folder of the second run."""
    here, there = (
        run(pipeline, tmp_path / "here").folder,
        far(pipeline, engine, tmp_path / "there", ProgressCallbacks()).folder,
    )
    same_result(here, there)
    nothing_left(there)
    return there


@pytest.mark.long
def test_two_sites_over_mutual_tls_give_the_numbers_of_one_process(tmp_path):
    """Six processes; the chains below are carried out by eight."""
    pipeline = chained(apart(tmp_path, 2), "scaffold-ecgr")
    discreet(the_same_far_away(pipeline, tmp_path, "poc"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["poc", "simulator"])
@pytest.mark.parametrize("chain", ["ecgr", "fedgmr", "fedbuff", "pflalign"])
def test_every_chain_gives_the_same_numbers(three, tmp_path, chain, engine):
    pipeline = chained(three, chain)
    the_same_far_away(pipeline, tmp_path, engine)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slides", "features"])
def test_sites_with_slides_or_features_give_the_numbers_of_one_process(tmp_path, kind):
    pipeline = load_pipeline(consortium(tmp_path, kind))
    discreet(the_same_far_away(pipeline, tmp_path, "poc"))


@pytest.mark.slow
def test_messages_in_pieces_give_the_numbers_of_one_process(tmp_path):
    """45 MB each way: six pieces."""
    file = apart(tmp_path, 2)
    changes = {"model": {"backbone": "resnet18"}, "method": ["scaffold"]}
    file.write_text(yaml.safe_dump(load_pipeline(file).model_dump(mode="json", exclude_none=True) | changes))
    there = the_same_far_away(load_pipeline(file), tmp_path, "poc")
    assert min(entry["bytes_up"] for entry in there.records()[0]["sites"].values() if entry["bytes_up"]) > 5 * PIECE


@pytest.mark.slow
def test_masked_sums_give_the_numbers_of_one_process(three, tmp_path):
    changes = {"method": [], "training": load_pipeline(three).training.model_dump(exclude_none=True)}
    changes["training"] |= {"secure_aggregation": True}
    file = three.with_name("masked.yaml")
    file.write_text(yaml.safe_dump(load_pipeline(three).model_dump(mode="json", exclude_none=True) | changes))
    discreet(the_same_far_away(load_pipeline(file), tmp_path, "poc"))


@pytest.mark.slow
def test_dyes_and_adaptation_give_the_numbers_of_one_process(three, tmp_path):
    changes = {**STAINED, "model": WITH_BATCHNORM}
    changes |= {"training": load_pipeline(three).training.model_dump(exclude_none=True) | STAINED["training"]}
    file = three.with_name("stained.yaml")
    file.write_text(yaml.safe_dump(load_pipeline(three).model_dump(mode="json", exclude_none=True) | changes))
    discreet(the_same_far_away(load_pipeline(file), tmp_path, "poc"))


def workers(folder, party: str) -> list[psutil.Process]:
    """The process of a party's job, not the one that started it."""
    module = "runner_process" if party == "server" else "worker_process"
    marked = Crew(laid_before(folder).run).marked()
    return [p for p in marked if module in " ".join(line := p.cmdline()) and any(Path(a).name == party for a in line)]


def at_round(number: int, act) -> ProgressCallbacks:
    """Act once, when a round has been told."""
    done = []

    def told(record, rounds):
        if record["round"] >= number and not done:
            done.append(True)
            act()

    return ProgressCallbacks(round=told)


def hold(folder, seconds: float) -> None:
    """Suspend the job of site-02 for so long."""
    (process,) = workers(folder, "site-02")
    process.suspend()
    threading.Timer(seconds, process.resume).start()


@pytest.mark.slow
def test_a_site_whose_disk_fails_is_named_and_the_round_goes_on(three, tmp_path):
    out = tmp_path / "there"

    def spoil():
        state = laid_before(out).home / "site-02" / "state"
        state.rename(state.with_name("gone"))
        state.write_text("no folder")

    outcome = far(chained(three, "scaffold-ecgr", rounds=12, local_steps=40), "poc", out, at_round(1, spoil))
    failures = [f for record in outcome.folder.records() for f in record["failures"]]
    assert failures
    assert {f["site"] for f in failures} == {"site-02"}
    assert {f["reason"] for f in failures} == {"NotADirectoryError at the site; its medfl.log says more"} or {
        f["reason"] for f in failures
    } == {"FileExistsError at the site; its medfl.log says more"}
    assert all(record["counted"] for record in outcome.folder.records()[:-1])
    assert "Traceback" in (laid_before(out).home / "site-02" / "medfl.log").read_text()
    discreet(outcome.folder)
    nothing_left(outcome.folder)


@pytest.mark.slow
def test_a_slow_site_is_dropped_and_back_in_the_next_round(three, tmp_path):
    out = tmp_path / "there"
    pipeline = chained(three, "scaffold-ecgr", rounds=12, timeout=4.0, local_steps=40)
    outcome = far(pipeline, "poc", out, at_round(1, lambda: hold(out, 6.0)))
    failed = [record["round"] for record in outcome.folder.records() if record["failures"]]
    reasons = {f["reason"] for record in outcome.folder.records() for f in record["failures"]}
    assert 1 <= len(failed) <= 3
    assert reasons == {"no answer within 4 s"}
    last = outcome.folder.records()[-1]
    assert last["failures"] == []
    assert "site-02" in last["sites"]


@pytest.mark.slow
def test_on_the_wall_clock_a_slow_site_is_not_waited_for(three, tmp_path):
    out = tmp_path / "there"
    pipeline = chained(three, "fedbuff", rounds=60, local_steps=20, evaluate_every=20, clock="wall")
    records = far(pipeline, "poc", out, at_round(1, lambda: hold(out, 1.0))).folder.records()
    assert all(record["counted"] for record in records[:-1])
    assert not any(record["failures"] for record in records)
    ages = {name: [r["sites"][name]["age"] for r in records if "age" in r["sites"].get(name, {})] for name in SITES}
    assert max(ages["site-02"]) > 3  # the others went on in the meantime
    assert max(ages["site-01"] + ages["site-03"]) < max(ages["site-02"])
    assert all("val" in records[-1]["sites"][name] for name in SITES)
    seconds = [record["wall_seconds"] for record in records]
    assert seconds == sorted(seconds)
    nothing_left(laid_before(out).folder)


@pytest.mark.slow
@pytest.mark.parametrize("party", ["site-02", "server"])
def test_a_process_killed_in_a_round_costs_nothing_but_time(three, tmp_path, party):
    pipeline = chained(three, "scaffold-ecgr", rounds=20, local_steps=40)
    here, out = run(pipeline, tmp_path / "here").folder, tmp_path / "there"
    killed = at_round(3, lambda: [p.kill() for p in workers(out, party)])
    with pytest.raises(RunFailed, match="medfl resume"):
        far(pipeline, "poc", out, killed)
    nothing_left(laid_before(out).folder)
    assert 4 <= len(laid_before(out).folder.records()) < 21
    resume(out, ProgressCallbacks())
    same_result(here, laid_before(out).folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_stopped_leaves_nothing_and_goes_on(three, tmp_path, number):
    pipeline = chained(three, "scaffold-ecgr", rounds=40, local_steps=40)
    here, out = run(pipeline, tmp_path / "here").folder, tmp_path / "there"
    command = [sys.executable, "-m", "medfl", "deploy", "poc", str(three.with_name("scaffold-ecgr.yaml"))]
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint" / "state.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    if number != signal.SIGKILL:  # then nobody is there to tidy up, and whoever goes on with the run does
        assert b"medfl resume" in words
        nothing_left(laid_before(out).folder)
    again = subprocess.run([sys.executable, "-m", "medfl", "resume", str(out)], capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    same_result(here, laid_before(out).folder)
    nothing_left(laid_before(out).folder)


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_stopped_and_kept(three, tmp_path):
    out = tmp_path / "there"
    with pytest.raises(RunFailed, match="longer than --timeout"):
        far(chained(three, "ecgr", rounds=4000), "poc", out, ProgressCallbacks(), 60.0)
    nothing_left(laid_before(out).folder)


def test_the_crew_takes_along_what_its_processes_started(tmp_path):
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    with Crew("mark-of-a-test") as crew:
        crew.start("one", [sys.executable, "-c", script], tmp_path / "one.log")
        while len(crew.marked()) < 2:
            time.sleep(0.01)
        assert all(process.environ()[MARK] == "mark-of-a-test" for process in crew.marked())
    assert crew.marked() == []
