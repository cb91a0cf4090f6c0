"""A run is of one pipeline from its first round to its last: what its figures depend on may not change."""

import pytest
import yaml

from medfl.errors import MedflError
from medfl.runs.run_identity import check_identity, identity, other_versions
from tests.runfolders import FakeRun


@pytest.fixture
def run(tmp_path):
    return FakeRun(tmp_path / "run").begin()


def changed(run: FakeRun, **parts: object) -> dict[str, object]:
    """What the run's pipeline is after dotted keys were changed in its file."""
    pipeline = run.pipeline()
    for key, value in parts.items():
        *parents, last = key.split("__")
        section = pipeline
        for parent in parents:
            section = section[int(parent) if parent.isdigit() else parent]
        section[last] = value
    (run.folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    return identity(run.folder / "pipeline.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task__classes", ["lung_n", "lung_aca", "lung_scc"]),
        ("training__optimizer__lr", 0.5),
        ("training__rounds", 9),
        ("method", ["scaffold"]),
        ("baseline", "local_only"),
        ("model__backbone", "test_byobnet"),
        ("data__size", 48),
        ("seed", 6),
        ("sites__train__0__labels", {}),
        ("select", {"metric": "val_mean_auroc", "mode": "max"}),
    ],
)
def test_what_figures_depend_on_is_named(run, key, value):
    before = changed(run)
    dotted = key.replace("__", ".").replace("train.0", "train.north")
    with pytest.raises(MedflError, match=rf"not the pipeline that the rounds .*`{dotted}.*was .* and is now"):
        check_identity(before, changed(run, **{key: value}), run.folder)


def test_where_things_are_how_fast_they_go_and_what_becomes_of_them_may_change(run):
    parts = {
        "training__threads": 2,
        "training__device": "cpu",
        "tracking__enabled": False,
        "registry": {"name": "x", "gates": {"held_out_auroc_min": 0.9}},
        "description": "other words",
        "data__cache": "/elsewhere",
        "sites__train__0__data__root": "/moved",
        "sites__train__0__about": {"owner": "A hospital"},
        "evaluation": {"batch_size": 8},
    }
    before = changed(run)
    check_identity(before, changed(run, **parts), run.folder)
    turned = run.pipeline()["sites"]["train"][::-1]
    check_identity(before, changed(run, sites__train=turned), run.folder)


def test_no_path_and_no_name_of_a_folder_is_kept(run):
    assert "/srv" not in str(changed(run))
    assert f"{run.root.rpartition('/')[2]} adeno" not in str(changed(run))


def test_names_of_patients_are_kept_as_a_digest_and_a_run_that_kept_them_goes_on(run):
    names = {"sites__train__0__data__distinct_names": ["Anna 017", "Anna 17"]}
    now = changed(run, **names)
    assert "Anna" not in str(now)
    before = now | {"sites.train.north.data.distinct_names": ["Anna 017", "Anna 17"]}  # as a run of 0.1 has them
    check_identity(before, now, run.folder)
    with pytest.raises(MedflError, match="distinct_names"):
        check_identity(before, changed(run, sites__train__0__data__distinct_names=["Bert"]), run.folder)


def test_versions_that_differ_are_told():
    assert (
        other_versions({"torch": "2.8.0", "medfl": "1"}, {"torch": "2.9.0", "medfl": "1"}) == "torch 2.8.0 (now 2.9.0)"
    )
    assert other_versions(None, {"torch": "2.9.0"}) == ""
