"""A pipeline carried out by a program, with what only a program can hand over: patches, a network, a loss."""

import json
import logging

import numpy as np
import pytest
import torch

import medfl
from medfl.errors import MedflError
from tests.program_parts import OneConvolution, bright, focal, in_memory, patches, site, site_patches
from tests.tiny import tiny


@pytest.fixture(scope="module")
def parts():
    return {"patches": patches(), "network": OneConvolution(), "loss": focal}


@pytest.fixture(scope="module")
def result(parts, tmp_path_factory):
    return medfl.run(in_memory(), out=tmp_path_factory.mktemp("runs") / "whole", training__rounds=3, **parts)


def test_a_run_of_patches_in_memory_a_module_and_a_loss(result, parts):
    assert result.summary["held_out"]["sites"] == ["c"]
    assert result.summary["rounds"] == 3
    assert not result.summary["leaky"]
    assert result.summary["sites"]["c"]["n"] == 36
    assert json.loads((result.folder / "model.json").read_text())["backbone"] == "program:OneConvolution"
    kept = (result.folder / "pipeline.yaml").read_text()
    assert "program:focal" in kept
    untouched = OneConvolution().state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in parts["network"].state_dict().items())


def test_the_loss_is_the_one_that_was_handed_over(result, parts, tmp_path):
    def first_loss(folder):
        return json.loads((folder / "rounds.jsonl").read_text().splitlines()[0])["sites"]["a"]["train_loss"]

    plain = medfl.run(in_memory(), out=tmp_path / "plain", patches=parts["patches"], network=parts["network"])
    assert first_loss(result.folder) < 0.7 * first_loss(plain.folder)


def test_tables(result):
    rounds, sites = result.to_pandas()
    assert len(rounds) == 4 * 2
    assert {"round", "site", "role", "counted", "train_loss", "val_auroc", "bytes_up"} <= set(rounds.columns)
    assert rounds["val_auroc"].dtype == float
    assert list(sites["site"]) == ["a", "b", "c"]
    measured = sites.set_index("site").loc["c"]
    assert measured["auroc_low"] <= measured["auroc"] <= measured["auroc_high"]
    assert measured["auroc"] == result.summary["sites"]["c"]["auroc"]


def test_it_is_measured_again_at_its_own_sites_and_at_a_new_one(result):
    again = medfl.evaluate(result)
    assert again.sites["c"]["auroc"] == pytest.approx(result.summary["sites"]["c"]["auroc"])
    assert again.sites["c"]["ece"] == pytest.approx(result.summary["sites"]["c"]["ece"], abs=1e-6)
    assert list(medfl.evaluate(result, ["a"]).to_pandas()["n"]) == [result.summary["sites"]["a"]["n"]]
    new = medfl.evaluate(result, patches={"d": site_patches(9, 30)})
    assert list(new.sites) == ["d"]
    assert new.sites["d"]["n"] == 30


def test_a_new_process_has_to_hand_them_over_again(result, parts):
    with pytest.raises(MedflError, match=r"network OneConvolution.*`network=...`"):
        medfl.load_model(result.folder)
    with pytest.raises(MedflError, match=r"site a: its patches are those of a program"):
        medfl.evaluate(result.folder, ["a"], network=parts["network"])
    with pytest.raises(MedflError, match=r"not the one trained|scores of 3"):
        medfl.load_model(result.folder, network=OneConvolution(classes=4))
    opened = medfl.load_model(result.folder, network=OneConvolution())
    images = bright(5, 4)
    np.testing.assert_array_equal(opened.predict_proba(images), result.model().predict_proba(images))


def test_what_cannot_be_served_or_sent_elsewhere_is_refused(result, parts):
    from medfl.export.write_export import export
    from medfl.pipeline.build_site import check_architecture
    from medfl.pipeline.load_pipeline import load_pipeline
    from medfl.pipeline.register_run import register_run

    for refused in (
        lambda: register_run(result.folder, name="x"),
        lambda: export(str(result.folder), "monai-bundle", result.folder / "bundle"),
        lambda: check_architecture(load_pipeline(result.folder / "pipeline.yaml")),
    ):
        with pytest.raises(MedflError, match=r"timm.models.register_model|hand it over again"):
            refused()
    with pytest.raises(MedflError, match=r"`registry`: a network .*register_model"):
        medfl.run(in_memory(registry={"name": "x"}), **parts)


def test_a_stopped_run_goes_on_bit_for_bit(result, parts, tmp_path):
    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("round 1/"):
            raise Stop

    with pytest.raises(Stop):
        medfl.run(in_memory(), out=tmp_path / "run", training__rounds=3, say=stop, **parts)
    with pytest.raises(MedflError, match="hand"):
        medfl.resume(tmp_path / "run")
    other = OneConvolution()
    with torch.no_grad():
        other.last.bias += 1
    with pytest.raises(MedflError, match="build it under the same seed"):
        medfl.resume(tmp_path / "run", **parts | {"network": other})
    changed = parts["patches"] | {"b": site_patches(8)}
    with pytest.raises(MedflError, match="the data of b behind"):
        medfl.resume(tmp_path / "run", **parts | {"patches": changed})
    whole = medfl.resume(tmp_path / "run", **parts)
    assert (whole.folder / "rounds.jsonl").read_bytes() == (result.folder / "rounds.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("changes", "given", "sentence"),
    [
        ({}, {"loss": lambda logits, labels: 0.0}, "`loss`: it gives a float"),
        ({}, {"loss": lambda logits: logits.sum()}, "`loss`: it fails on logits"),
        ({}, {"loss": 3}, "`loss` is no function"),
        ({"training": {"label_smoothing": 0.1}}, {}, "`label_smoothing` is a part of cross entropy"),
        ({"model": {}}, {}, "`model.input`: nothing states how program:OneConvolution"),
        ({}, {"network": OneConvolution(classes=5)}, "not the scores of 3 classes"),
        ({}, {"patches": {"lost": site_patches(1)}}, "lists no site 'lost'"),
        ({}, {"patches": {"a": bright(1)}}, "give medfl.SitePatches"),
        ({"model": {"input": {"mean": [0, 0, 0], "std": [1, 1, 1]}, "args": {"a": 1}}}, {}, "`model.args` is for timm"),
    ],
)
def test_what_is_wrong_is_said_before_training(parts, changes, given, sentence, tmp_path):
    with pytest.raises(MedflError, match=sentence):
        medfl.run(in_memory(**changes), out=tmp_path / "run", **parts | given)
    assert not (tmp_path / "run" / "rounds.jsonl").exists()


def test_a_mapping_is_checked_like_a_file_and_overrides_have_two_spellings():
    from medfl.pipeline.load_pipeline import load_pipeline

    given = tiny()
    with pytest.raises(MedflError, match="rouns"):
        medfl.run(given, training__rouns=3)
    with pytest.raises(MedflError, match="rouns"):
        medfl.run(given, **{"training.rouns": 3})
    with pytest.raises(MedflError, match="no plain mapping: object"):
        medfl.run(given | {"task": {"classes": object()}})
    assert load_pipeline(given | {"seed": np.int64(4)}).seed == 4
    assert given == tiny()


def test_the_logger_is_told_where_nobody_else_is(parts, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="medfl"):
        medfl.run(in_memory(), out=tmp_path / "run", training__rounds=1, **parts)
    lines = [record.getMessage() for record in caplog.records if record.name == "medfl"]
    assert [line[:9] for line in lines if line.startswith("round")] == ["round 0/1", "round 1/1"]


def test_groups_that_nobody_knows_are_marked(parts, tmp_path):
    unknown = {name: medfl.SitePatches(bright(at), np.arange(36) % 3, "unknown") for at, name in enumerate("abc")}
    leaky = medfl.run(in_memory(), out=tmp_path / "run", training__rounds=1, **parts | {"patches": unknown})
    assert leaky.summary["leaky"]


def test_one_patient_at_two_sites_is_refused(parts, tmp_path):
    twice = parts["patches"] | {"b": site_patches(0)}
    with pytest.raises(MedflError, match="the source group 0-0 is in two places"):
        medfl.run(in_memory(), out=tmp_path / "run", **parts | {"patches": twice})


def test_an_open_result_is_one_that_has_finished(result, tmp_path):
    assert medfl.RunResult(result.folder).summary == result.summary
    (tmp_path / "pipeline.yaml").write_text("name: x\n")
    with pytest.raises(MedflError, match=r"medfl\.resume"):
        medfl.RunResult(tmp_path)


def test_a_site_is_named_by_a_mapping_too(result):
    measured = medfl.evaluate(result, [site("d")], patches={"d": site_patches(9, 30)})
    assert list(measured.sites) == ["d"]


def test_patience_ends_training_says_so_and_is_resumed_bit_for_bit(parts, tmp_path):
    class Stop(Exception):
        pass

    # The bright colours are told apart at once: an AUROC of 1 is never bettered.
    plan = in_memory(select={"metric": "val_mean_auroc", "mode": "max", "patience": 1}, training={"rounds": 9})
    lines: list[str] = []
    whole = medfl.run(plan, out=tmp_path / "whole", say=lines.append, **parts)
    stopped = whole.summary["stopped"]
    assert stopped["round"] == len(whole.records) - 1 < 9
    assert whole.summary["rounds"] == 9
    reason = f"ended after {stopped['round']} of 9 rounds: val_mean_auroc had not been better for 1 round (`select.pat"
    assert stopped["reason"].startswith(reason)
    assert any(line.startswith(f"Training {reason}") for line in lines)

    def stop(line):
        if line.startswith(f"round {stopped['round'] - 1}/"):  # the round in which the end was decided
            raise Stop

    with pytest.raises(Stop):
        medfl.run(plan, out=tmp_path / "cut", say=stop, **parts)
    again = medfl.resume(tmp_path / "cut", **parts)
    assert (again.folder / "rounds.jsonl").read_bytes() == (whole.folder / "rounds.jsonl").read_bytes()
    assert again.summary["stopped"] == stopped
