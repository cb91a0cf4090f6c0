"""What would be missed only after the last round is looked at before the first."""

import pytest

from medfl.cli.dry_run import print_plan
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.plan_checks import check_plan
from tests.tiny import CLASSES, write_tiny


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("plans"))


def refusal(act, *arguments):
    with pytest.raises(MedflError) as caught:
        act(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("registry={name: a/b}", ["`registry.name`", "'a/b'"]),
        ("registry={name: x, alias: latest}", ["`registry.alias`", "latest"]),
        ("registry={name: x, alias: v1}", ["`registry.alias`", "MLflow keeps"]),
        ("registry={name: x, alias: ''}", ["`registry.alias`"]),
        ("tracking={uri: htp://here}", ["htp:", '"http"']),
        ("tracking={experiment: ' '}", ["`tracking.experiment`"]),
    ],
)
def test_an_end_that_cannot_be_is_refused_at_load(file, override, said):
    words = refusal(load_pipeline, file, [override])
    assert str(file) in words
    assert all(part in words for part in said)


def test_the_most_malignant_patches_need_malignant_classes(file):
    top, others = "evaluation={patients: {top: 3}}", "task={classes: [lung_n, colon_n]}"
    words = refusal(load_pipeline, file, [top, others])
    assert str(file) in words
    assert "`evaluation.patients: {top: ...}`" in words
    assert "`task.malignant`" in words
    assert load_pipeline(file, [top]).evaluation.top == 3
    assert load_pipeline(file, ["evaluation={patients: mean}"]).evaluation.top == 0


def test_a_gate_on_sites_that_are_not_there(file):
    sites = "sites={generate: {count: 3, patches: 45}}"
    assert "held-out sites" in refusal(load_pipeline, file, ["registry={name: x, gates: {held_out_ece_max: 1}}", sites])
    load_pipeline(file, ["registry={name: x, gates: {worst_site_auroc_min: 0.5}}", sites])


def test_an_address_in_the_environment_counts_and_known_ones_pass(file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    assert "MLFLOW_TRACKING_URI" in refusal(load_pipeline, file, ["tracking.enabled=true"])
    load_pipeline(file)  # tracking is off
    for uri in ("mlruns", "/srv/mlruns", "file:///srv", "http://h:5000", "postgresql+psycopg://u@h/d", "databricks"):
        load_pipeline(file, [f"tracking={{uri: '{uri}'}}"])


def test_a_run_that_has_begun_is_read_as_it_is(file, tmp_path):
    text = file.read_text() + "registry: {name: x, alias: latest}\n"
    (tmp_path / "pipeline.yaml").write_text(text)
    (tmp_path / "rounds.jsonl").touch()
    assert load_pipeline(tmp_path / "pipeline.yaml").registry.alias == "latest"


def rows(site, role, split, counts, groups=4):
    return [
        {"site": site, "role": role, "split": split, "class": name, "groups": groups, "patches": n, "digest": ""}
        for name, n in zip(CLASSES, counts, strict=True)
    ]


def test_a_gate_on_a_figure_that_these_data_cannot_have(file):
    gated = load_pipeline(file, ["registry={name: x, gates: {held_out_auroc_min: 0.5, held_out_ece_max: 1}}"])
    check_plan(gated, rows("held-out-01", "held_out", "test", [3, 0, 1]))
    check_plan(gated, rows("site-01", "train", "test", [3, 0, 0]))  # no gate reads it, and the other sites are away
    words = refusal(check_plan, gated, rows("held-out-01", "held_out", "test", [3, 0, 0]))
    assert "held-out-01" in words
    assert "lung_aca only" in words
    assert "no patches" in refusal(check_plan, gated, rows("held-out-01", "held_out", "test", [0, 0, 0]))
    single = rows("held-out-01", "held_out", "test", [3, 0, 1])
    assert "one source group" in refusal(check_plan, gated, [r | {"groups": int(r["patches"] == 3)} for r in single])
    only_ece = load_pipeline(file, ["registry={name: x, gates: {held_out_ece_max: 1}}"])
    check_plan(only_ece, rows("held-out-01", "held_out", "test", [3, 0, 0]))


def test_a_selection_that_no_site_can_serve(file):
    chosen = load_pipeline(file, ["select={metric: val_mean_auroc, mode: max}"])
    poor, rich = rows("site-01", "train", "val", [3, 0, 0]), rows("site-02", "train", "val", [3, 1, 0])
    check_plan(chosen, poor + rich)
    assert "`select.metric`" in refusal(check_plan, chosen, poor)
    check_plan(load_pipeline(file, ["select={metric: val_mean_loss, mode: min}"]), poor)


def test_a_count_that_a_site_withholds_is_not_0(file):
    gated = load_pipeline(file, ["registry={name: x, gates: {held_out_auroc_min: 0.5}}"])
    told = rows("held-out-01", "held_out", "test", [9, 3, 3])
    withheld = [row if row["patches"] == 9 else row | {"patches": "", "groups": ""} for row in told]
    check_plan(gated, withheld)
    of_one = [
        row if row["patches"] else row | {"patches": "", "groups": ""}
        for row in rows("held-out-01", "held_out", "test", [0, 0, 0])
    ]
    check_plan(gated, of_one)
    assert "no patches" in refusal(check_plan, gated, rows("held-out-01", "held_out", "test", [0, 0, 0]))


def test_a_dry_run_looks_too(file, monkeypatch):
    from types import SimpleNamespace

    gated = load_pipeline(file, ["registry={name: x, gates: {held_out_auroc_min: 0.5}}"])
    partition = SimpleNamespace(counts=lambda: rows("held-out-01", "held_out", "test", [3, 0, 0]))
    prepared = SimpleNamespace(pipeline=gated, partition=partition, shared=SimpleNamespace(model=None))
    assert "held_out_auroc_min" in refusal(print_plan, prepared, None)
