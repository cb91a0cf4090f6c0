"""Pipeline and site files: what is read, what is refused, and in which words."""

import copy

import pytest
import yaml

from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline, load_site

SITE = {"name": "north", "patches": 40, "class_mix": {"a": 0.5, "b": 0.5}}
PIPELINE = {
    "name": "demo",
    "task": {"classes": ["a", "b"]},
    "data": {"source": "folder", "root": "images", "source_groups": "groups.csv"},
    "sites": {"train": ["north.yaml", {"name": "south"}], "held_out": ["far.yaml"]},
    "model": {"backbone": "test_resnet"},
    "training": {"rounds": 2},
}


@pytest.fixture
def write(tmp_path):
    """write(changes to the pipeline, changes to the north site) -> path of the pipeline file."""

    def _write(change=lambda p: None, site_change=lambda s: None):
        site, pipeline = copy.deepcopy(SITE), copy.deepcopy(PIPELINE)
        change(pipeline)
        site_change(site)
        (tmp_path / "north.yaml").write_text(yaml.safe_dump(site))
        (tmp_path / "far.yaml").write_text(yaml.safe_dump({"name": "far", "role": "held_out"}))
        path = tmp_path / "demo.yaml"
        path.write_text(yaml.safe_dump(pipeline))
        return path

    return _write


def refusal(path, *overrides):
    with pytest.raises(MedflError) as caught:
        load_pipeline(path, overrides)
    return str(caught.value)


def test_sites_are_inlined_and_paths_absolute(write, tmp_path):
    pipeline = load_pipeline(write())
    assert [(s.name, s.role) for s in pipeline.all_sites] == [
        ("north", "train"),
        ("south", "train"),
        ("far", "held_out"),
    ]
    assert pipeline.data.root == str(tmp_path / "images")
    assert pipeline.data.source_groups == str(tmp_path / "groups.csv")


def test_a_resolved_pipeline_reads_back_equal(write, tmp_path):
    pipeline = load_pipeline(write(), ["training.rounds=5", "method=[{name: ecgr, beta: 0.5}]"])
    (tmp_path / "elsewhere").mkdir()
    again = tmp_path / "elsewhere" / "resolved.yaml"
    again.write_text(dump_pipeline(pipeline))
    assert load_pipeline(again) == pipeline


def test_weights_are_words_or_paths_beside_the_file(write, tmp_path):
    def weights(stated):
        return load_pipeline(write(lambda p: p["model"].update(weights=stated))).model.weights

    for word in ("random", "pretrained", "package", "hf-hub:org/name"):
        assert weights(word) == word
    assert weights("w.pth") == str(tmp_path / "w.pth")
    assert weights("local-dir:uni") == f"local-dir:{tmp_path / 'uni'}"


def test_old_keys_of_weights_load_with_a_line(write, tmp_path):
    old = load_pipeline(write(lambda p: p["model"].update(pretrained=True)))
    assert old.model.weights == "pretrained"
    assert "`model.weights: pretrained`" in old.notices[0]
    old = load_pipeline(write(lambda p: p["model"].update(pretrained=False, checkpoint="w.pth")))
    assert (old.model.weights, old.model.input) == (str(tmp_path / "w.pth"), "timm")
    assert "`model.weights`" in old.notices[0]
    assert load_pipeline(write(lambda p: p["model"].update(pretrained=False))).notices == ()


def test_overrides(write):
    path = write()
    pipeline = load_pipeline(
        path,
        [
            "training.rounds=7",
            "training.optimizer.lr=0.3",
            "method=[fedprox, ecgr]",
            "registry={name: x}",
            "sites.train.1.name=west",
        ],
    )
    assert pipeline.training.rounds == 7
    assert pipeline.training.optimizer.lr == 0.3
    assert pipeline.method == ["fedprox", "ecgr"]
    assert pipeline.registry.name == "x"
    assert pipeline.train_sites[1].name == "west"
    assert load_pipeline(path, ["registry={name: x}", "registry=null"]).registry is None


def test_generated_sites_replace_listed_ones(write):
    pipeline = load_pipeline(write(), ["sites={generate: {count: 4, held_out: 2, patches: 30}}"])
    assert len(pipeline.train_sites) == 4
    assert len(pipeline.held_out_sites) == 2
    assert all(site.stain is not None and site.class_mix is not None for site in pipeline.all_sites)
    assert pipeline.sites.generate is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["training"].update(ruonds=3), ["training.ruonds", '"rounds"']),
        (lambda p: p.update(metod=[]), ["metod", '"method"']),
        (lambda p: p["training"].update(rounds=0), ["training.rounds", "greater than or equal to 1"]),
        (lambda p: p["training"].update(optimizer={"lr": -1}), ["training.optimizer.lr", "greater than 0", "-1"]),
        (lambda p: p["training"].update(optimizer={"lr": float("nan")}), ["training.optimizer.lr", "finite"]),
        (lambda p: p["training"].update(optimizer={"name": "sdg"}), ["training.optimizer.name", '"sgd"']),
        (lambda p: p["training"].update(sites_per_round=9), ["training.sites_per_round", "9"]),
        (lambda p: p.update(select={"metric": "val_mean_auc", "mode": "max"}), ["select", "val_mean_auroc"]),
        (lambda p: p.pop("model"), ["model", "missing"]),
        (lambda p: p["task"].update(classes=["a", "a"]), ["task.classes", "once"]),
        (lambda p: p["task"].update(classes=["a", "x"]), ["north", "class_mix", " b,"]),
        (lambda p: p["data"].update(source="folders"), ["data.source", '"folder"']),
        (lambda p: p["data"].update(mode="own"), ["north", "data.mode: own"]),
        (lambda p: p["sites"]["train"].append("north.yaml"), ["two sites", "north"]),
        (lambda p: p["sites"]["train"].append("far.yaml"), ["far", "held_out", "train"]),
        (lambda p: p["sites"]["train"].append("nroth.yaml"), ["nroth.yaml", '"north.yaml"']),
        (lambda p: p["sites"].update(generate={"count": 2}), ["list sites or generate"]),
        (lambda p: p.update(sites=["north.yaml"]), ["`sites` must be a mapping"]),
        (lambda p: p.update(sites={"train": []}), ["at least one training site"]),
        (lambda p: p["sites"]["train"].append({"name": "Upper Case"}), ["name"]),
        (lambda p: p["model"].update(pretrained=True, checkpoint="x"), ["pretrained", "checkpoint"]),
        (lambda p: p["model"].update(pretrained=True, weights="package"), ["pretrained", "`model.weights` alone"]),
        (lambda p: p["model"].pop("backbone"), ["`backbone` is missing", "local-dir:"]),
        (
            lambda p: p["model"].update(input={"mean": [0, 0, 0], "std": [1, 1, 0]}),
            ["model.input.std", "greater than 0"],
        ),
        (lambda p: p["model"].update(input={"mean": [0, 0, 0]}), ["model.input.std", "missing"]),
        (lambda p: p["model"].update(sha256="abc"), ["model.sha256"]),
    ],
)
def test_a_wrong_pipeline_is_refused_in_one_sentence(write, change, said):
    path = write(change)
    message = refusal(path)
    assert "demo.yaml" in message or "yaml" in message
    assert all(part in message for part in said), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(stian="x"), ["north.yaml", "stian", '"stain"']),
        (lambda s: s.update(class_mix={"a": 0.5, "b": 0.2}), ["north.yaml", "class_mix", "sum to 1", "0.7"]),
        (lambda s: s.update(patches=-3), ["north.yaml", "patches", "-3"]),
        (lambda s: s.update(stain="voilet_rich"), ["north", "stain", "violet_rich"]),
        (lambda s: s.update(stain={"haematoxylin": [1, 1, 1], "eosin": [0, 1, 1]}), ["north", "eosin", "positive"]),
        (lambda s: s.update(local_steps=3, local_epochs=1), ["local_epochs or local_steps"]),
        (lambda s: s.update(class_mix={"a": 0.5, "zz": 0.5}), ["north", "zz"]),
    ],
)
def test_a_wrong_site_is_refused(write, change, said):
    message = refusal(write(site_change=change))
    assert all(part in message for part in said), message


def test_broken_yaml_names_the_line(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: x\ntask: [unclosed\nmore: 1\n")
    assert "line 3" in refusal(path)
    path.write_text("name: x\nname: y\n")
    assert "stands twice" in refusal(path)
    path.write_text("a: &x [1]\nb: *x\n")
    assert "aliases" in refusal(path)
    path.write_text("just text")
    assert "mapping" in refusal(path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(path)
    assert "folder" in refusal(tmp_path)


def test_missing_file_shows_near_names(write):
    path = write()
    message = refusal(path.with_name("demmo.yaml"))
    assert "no pipeline file" in message
    assert '"demo.yaml"' in message


@pytest.mark.parametrize("override", ["rounds", "=3", "training.rounds=[", "name.sub=1"])
def test_bad_overrides(write, override):
    assert "--set" in refusal(write(), override)


def test_a_site_file_alone(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("name: own\ndata: {source: folder, root: pics}\nlabels: {adeno: lung_aca}\n")
    site = load_site(path)
    assert site.data.root == str(tmp_path / "pics")
    with pytest.raises(MedflError, match="no site file"):
        load_site(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.classes=[no, yes]", ["`task.classes.0`", "no, on and off", "into quotes"]),
        ("task.classes=[a, 2]", ["`task.classes.1`", "a number", 'into quotes, "2"']),
        ("task.classes=[a, null]", ["`task.classes.1`", '"null"']),
        ("sites.train.1.labels={x: on}", ["labels.x", "no, on and off"]),
        ("sites.train.1.name=Uni_Zürich", ["small letters", "write uni-zurich"]),
        ("registry={name: off}", ["`registry.name`", "no, on and off"]),
        ("training.rounds=yes", ["`training.rounds`", "a number"]),
        ("training.sites_per_round=on", ["`training.sites_per_round`", "a number"]),
        ("registry={name: x, gates: {held_out_ece_max: no}}", ["held_out_ece_max", "a number"]),
        ("method=[{name: fedprox, mu: yes}]", ["method.fedprox", "`mu`"]),
    ],
)
def test_words_that_yaml_reads_as_something_else(write, override, said):
    words = refusal(write(), override)
    assert all(part in words for part in said), words


def test_words_in_quotes_are_words_and_switches_are_switches(write):
    pipeline = load_pipeline(
        write(lambda p: p["task"].update(classes=["a", "b", "no", "on"])), ["training.weighted_loss=no"]
    )
    assert pipeline.task.classes == ["a", "b", "no", "on"]
    assert pipeline.training.weighted_loss is False
