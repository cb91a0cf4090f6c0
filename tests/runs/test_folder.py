"""A run folder whose files are damaged, lost or of different times: a sentence, and no round is lost without one."""

import json
import random
import shutil

import pytest

from medfl.errors import MedflError
from medfl.runs.folder import RunFolder
from medfl.runs.json_lines import append_json_line
from medfl.runs.privacy_ledger import read_releases
from tests.runs.test_digests import mutation
from tests.runs.test_faults import Toy

ROUNDS = 3


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A toy run of three rounds whose releases are noted, as `dp` does it."""
    toy = Toy(tmp_path_factory.mktemp("toy") / "run")
    for _ in range(ROUNDS):
        record = toy.federation.run_round() | {"privacy": {"epsilon": 1.0, "delta": 1e-5}}
        append_json_line(toy.folder.privacy, {"round": record["round"], "sites": record["participants"]})
        memories = [site.memory() for site in toy.sites.values()]
        toy.folder.save_round(record, {"train": 0.1}, toy.federation.state.snapshot(), memories, {})
    toy.folder.release()
    return toy.folder


@pytest.fixture
def run(played, tmp_path):
    return RunFolder(shutil.copytree(played.path, tmp_path / "run"))


def meaning(folder: RunFolder) -> tuple:
    """What a resumed run goes on from."""
    state, _ = folder.load_checkpoint({})
    folder.truncate(state.round)
    return state.round, state.weights.numpy().tobytes(), folder.records(), read_releases(folder.privacy)


def test_any_single_byte_is_noticed_or_means_nothing(run):
    draw, whole = random.Random(3), meaning(run)
    content = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file() and file.name != ".lock"}
    names = sorted(content)
    assert {"state.json", "server.safetensors", "rounds.jsonl", "privacy.jsonl"} <= {file.name for file in names}
    refusals = 0
    for turn in range(56):
        victim = names[turn % len(names)]
        victim.write_bytes(mutation(draw, content[victim]))
        try:
            assert meaning(run) == whole
        except MedflError:
            refusals += 1
        for file in {victim, run.rounds, run.timings}:
            file.write_bytes(content[file])
    assert refusals > 30


@pytest.mark.parametrize("name", ["rounds.jsonl", "privacy.jsonl"])
@pytest.mark.parametrize("old", [False, True], ids=["", "of 0.1"])
def test_a_lost_or_shorter_file_is_refused(run, name, old):
    if old:  # a checkpoint that says nothing of other files
        state = json.loads((run.checkpoint / "state.json").read_text())
        for key in ("run", "digests", "digest"):
            del state[key]
        (run.checkpoint / "state.json").write_text(json.dumps(state))
    file = run.path / name
    for content in (b"".join(file.read_bytes().splitlines(keepends=True)[:-1]), None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(MedflError, match=rf"{name}.*restore"):
            meaning(run)


def test_a_lost_checkpoint_does_not_begin_the_run_anew(run):
    shutil.rmtree(run.checkpoint)
    before = run.rounds.read_bytes()
    assert run.load_checkpoint({}) is None
    with pytest.raises(MedflError, match=r"rounds\.jsonl holds 3 rounds, and .*checkpoint is the state after 0"):
        run.truncate(0)
    assert run.rounds.read_bytes() == before


@pytest.mark.parametrize("state", ["{}", "[]", "17", '{"round": 3}', '{"round": "x", "flights": 1, "seconds": []}'])
def test_a_state_that_is_none_is_a_sentence(run, state):
    (run.checkpoint / "state.json").write_text(state)
    with pytest.raises(MedflError, match=r"checkpoint is damaged .*; restore it"):
        meaning(run)


def test_a_round_in_the_place_of_another_is_told(run):
    lines = run.rounds.read_text().splitlines()
    run.rounds.write_text("\n".join([lines[0], lines[2], lines[1]]) + "\n")
    with pytest.raises(MedflError, match=r"rounds\.jsonl, line 2: holds round 2 in the place of round 1"):
        run.records()


def test_timings_are_told_apart_from_results(run):
    run.timings.write_bytes(b"\xff\n" + run.timings.read_bytes())
    with pytest.raises(MedflError, match=r"timings\.jsonl, line 1: .*delete it and go on"):
        meaning(run)
    run.timings.unlink()
    assert meaning(run)[0] == ROUNDS
