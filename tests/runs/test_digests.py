"""A finished run's files say of each other what they are: what was edited, exchanged or damaged is named."""

import contextlib
import json
import random
import shutil

import pytest

from medfl.errors import MedflError
from medfl.pipeline.trained_model import find_model
from medfl.report.run_report import report_html
from medfl.runs.digests import check_files, check_weights, file_digest, sealed
from medfl.runs.folder import RunFolder
from tests.runfolders import FakeRun


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return FakeRun(tmp_path_factory.mktemp("runs") / "whole").whole().folder


@pytest.fixture
def run(whole, tmp_path):
    """A run folder with digests."""
    folder = RunFolder(shutil.copytree(whole, tmp_path / "run"))
    folder.save_summary(json.loads(folder.summary.read_text()))
    return folder


def edit(folder: RunFolder) -> None:
    summary = json.loads(folder.summary.read_text())
    summary["sites"]["east"]["auroc_ci"] = [0.97, 1.0]
    folder.summary.write_text(json.dumps(summary, indent=2))


def test_what_the_run_wrote_agrees(run):
    assert check_files(run.read_summary(), run.path)
    assert run.read_summary()["digests"]["rounds.jsonl"] == file_digest(run.rounds)
    assert sealed(run.read_summary(), run.path) == run.read_summary()


def test_an_edited_summary_opens_nothing(run):
    edit(run)
    for reader in (RunFolder.read_summary, lambda run: find_model(str(run.path)), lambda run: report_html(run.path)):
        with pytest.raises(MedflError, match=r"holds summary\.json as the run did not write it.*--remeasure"):
            reader(run)
    assert check_files(json.loads(run.summary.read_text()), run.path, remeasured=True)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_another_model_is_no_matter_of_measuring(run, name):
    file = run.path / name
    file.write_bytes(file.read_bytes() + b" ")
    for remeasured in (False, True):
        with pytest.raises(MedflError, match=name) as raised:
            check_files(json.loads(run.summary.read_text()), run.path, remeasured)
        assert "--remeasure" not in str(raised.value)


def test_a_lost_file_is_named(run):
    run.rounds.unlink()
    with pytest.raises(MedflError, match=r"rounds\.jsonl"):
        run.read_summary()


def test_weights_are_those_of_their_model_json(run):
    facts = {"weights": file_digest(run.model)}
    check_weights(facts, run.path)
    check_weights({}, run.path)
    run.model.write_bytes(run.model.read_bytes() + b" ")
    with pytest.raises(MedflError, match=r"other weights than those that .*model\.json was written for"):
        check_weights(facts, run.path)


def test_any_single_byte_of_a_summary_is_noticed_or_means_nothing(run):
    draw, content, before = random.Random(7), run.summary.read_bytes(), run.read_summary()
    refusals = 0
    for _ in range(60):
        run.summary.write_bytes(mutation(draw, content))
        try:
            after = run.read_summary()
        except MedflError:
            refusals += 1
        else:
            figures = {key: value for key, value in before.items() if key != "digests"}
            assert all(after[key] == value for key, value in figures.items())
    assert refusals > 20


def mutation(draw: random.Random, content: bytes) -> bytes:
    """The same with one byte changed, gone or added."""
    at, kind = draw.randrange(len(content)), draw.choice(("flip", "delete", "insert"))
    middle = {
        "flip": bytes([content[at] ^ 1 << draw.randrange(8)]),
        "delete": b"",
        "insert": bytes([draw.randrange(256), content[at]]),
    }[kind]
    return content[:at] + middle + content[at + 1 :]


WRONG = (None, 17, "x", [], {}, [1], {"a": 1}, True, -1e300)


def wrong_part(draw: random.Random, value: object) -> object:
    """The same JSON value with one part of it of another kind, or gone."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(WRONG)
    parts = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    key = draw.choice(list(parts))
    if draw.random() < 0.2:
        del parts[key]
    else:
        parts[key] = wrong_part(draw, parts[key])
    return parts if isinstance(value, dict) else list(parts.values())


def shapes_of_a_run_without_digests(whole, tmp_path, seed: int, count: int) -> None:
    folder = RunFolder(shutil.copytree(whole, tmp_path / f"old{seed}"))
    draw = random.Random(seed)
    for _ in range(count):
        file = draw.choice((folder.summary, folder.summary, folder.rounds, folder.model_json))
        content = file.read_bytes()
        if file == folder.rounds:
            lines = content.splitlines()
            at = draw.randrange(len(lines))
            lines[at] = json.dumps(wrong_part(draw, json.loads(lines[at]))).encode()
            file.write_bytes(b"\n".join(lines) + b"\n")
        else:
            file.write_text(json.dumps(wrong_part(draw, json.loads(content))))
        for reader in (report_html, lambda path: find_model(str(path))):
            with contextlib.suppress(MedflError):
                reader(folder.path)
        file.write_bytes(content)


@pytest.mark.parametrize(
    "part", [{"sites": 17}, {"sites": {"east": []}}, {"classes": None}, {"sites": {"east": {"role": "held_out"}}}]
)
def test_wrong_shapes_in_a_run_of_before_digests_are_sentences(whole, tmp_path, part):
    folder = RunFolder(shutil.copytree(whole, tmp_path / "old"))
    folder.summary.write_text(json.dumps({**json.loads(folder.summary.read_text()), **part}))
    with pytest.raises(MedflError, match="does not hold what medfl writes"):
        report_html(folder.path)
    folder.model_json.write_text(json.dumps({**json.loads(folder.model_json.read_text()), "mean": part}))
    with pytest.raises(MedflError, match=r"does not say what model this is .`mean`"):
        find_model(str(folder.path))


@pytest.mark.slow
def test_many_wrong_shapes_are_sentences(whole, tmp_path):
    for seed in range(6):
        shapes_of_a_run_without_digests(whole, tmp_path, seed, count=20)
