"""The registry: gates, the alias guard, the model card, and the served model in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow.exceptions import MlflowException
from mlflow.utils import validation
from safetensors.torch import load_file, save_file

from medfl import config
from medfl.data.synthetic.tissue import draw_copies
from medfl.errors import GateFailed, MedflError, RunFailed
from medfl.model import timm_network
from medfl.runs.gates import check
from medfl.runs.records import read_run
from medfl.tracking.connect import client_for
from medfl.tracking.download import fetch_model, is_reference
from medfl.tracking.model_card import model_card
from medfl.tracking.model_registry import _move_alias, held_out_digest, register
from medfl.tracking.sync import sync
from tests.runfolders import BACKBONE, CLASSES, SIZE, FakeRun, probabilities, tracking


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def where(request: pytest.FixtureRequest) -> config.Tracking:
    """The shared database, an experiment of the test's own."""
    return tracking(request.node.name)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log models without their files, where a test does not look at them."""
    monkeypatch.setattr("medfl.tracking.log_model.save_model", lambda run, settings, temporary, *ids: temporary)


def registry(where: config.Tracking) -> dict[str, Any]:
    """Everything the registry holds: {model: ({version: tags}, aliases)}."""
    client = client_for(str(where.uri))
    versions: dict[str, dict[str, Any]] = {}
    for version in client.search_model_versions():
        versions.setdefault(version.name, {})[str(version.version)] = version.tags
    return {
        m.name: (versions.get(m.name, {}), {alias: str(v) for alias, v in m.aliases.items()})
        for m in client.search_registered_models()
    }


# --- gates ----------------------------------------------------------------------------------------------------------


def result() -> dict[str, Any]:
    return {
        "sites": {
            "north": {"role": "train", "auroc": 0.95, "auroc_ci": [0.90, 0.97], "ece": 0.02},
            "south": {"role": "train", "auroc": 0.93, "auroc_ci": [0.70, 0.99], "ece": 0.02},
            "east": {"role": "held_out", "auroc": 0.92, "auroc_ci": [0.85, 0.95], "ece": 0.04},
            "west": {"role": "held_out", "auroc": 0.90, "auroc_ci": [0.88, 0.93], "ece": 0.08},
        },
        "held_out": {"mean_auroc": 0.91, "mean_ece": 0.06},
    }


@pytest.mark.parametrize(
    ("gates", "missed"),
    [
        ({}, []),
        ({"held_out_auroc_min": 0.85, "held_out_ece_max": 0.06, "worst_site_auroc_min": 0.70}, []),
        ({"held_out_auroc_min": 0.86}, ["lower 95 % bound of AUROC at the held-out site east is 0.8500, below"]),
        ({"worst_site_auroc_min": 0.8}, ["lower 95 % bound of AUROC at the training site south is 0.7000, below"]),
        ({"held_out_ece_max": 0.05}, ["mean ECE of the held-out sites is 0.0600, above"]),
    ],
)
def test_gates(gates: dict[str, float], missed: list[str]) -> None:
    bounds = [f"{key}: the {what} the bound {gates[key]:g}" for key, what in zip(gates, missed, strict=False)]
    assert [str(miss) for miss in check(result(), config.Gates(**gates))] == bounds


def test_a_figure_that_is_not_there_misses_its_gate() -> None:
    gates = config.Gates(held_out_auroc_min=0.0, held_out_ece_max=1.0, worst_site_auroc_min=0.0)
    every = ["held_out_auroc_min", "worst_site_auroc_min", "held_out_ece_max"]

    def missed(roles: dict[str, str] | None = None) -> list[str]:
        return [miss.gate for miss in check(summary, gates, roles)]

    summary = result()
    assert missed() == []
    summary["sites"]["north"]["auroc_ci"] = None
    summary["sites"]["west"]["ece"] = None
    assert missed() == every[1:]
    summary["sites"] = {}
    assert missed() == every
    summary = result()
    summary["held_out"]["mean_ece"] = float("nan")
    summary["sites"]["east"]["auroc_ci"] = [float("nan"), 1.0]
    assert missed() == [every[0], every[2]]
    summary = result()
    lost = summary["sites"].pop("west")  # its measurement failed: only the pipeline knows that it exists
    roles = {name: site["role"] for name, site in summary["sites"].items()} | {"west": lost["role"]}
    assert missed(roles) == [every[0], every[2]]
    assert "site west is not available" in str(check(summary, gates, roles)[0])


def test_a_failed_gate_leaves_the_registry_alone(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a", skill=0.0).whole()
    before = registry(where)
    with pytest.raises(GateFailed, match=r"held_out_auroc_min.*below the bound 0\.99") as refusal:
        register(run.folder, name="gated", gates=config.Gates(held_out_auroc_min=0.99), force=True, tracking=where)
    assert refusal.value.exit_code == 3
    assert registry(where) == before
    assert (run.folder / "summary.json").exists()


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Rewrite a JSON file, or each line of a file of JSON lines."""
    lines = path.suffix == ".jsonl"
    values = [json.loads(text) for text in (path.read_text().splitlines() if lines else [path.read_text()])]
    for value in values:
        change(value)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.mark.parametrize(
    ("file", "change", "gates", "said"),
    [
        ("rounds.jsonl", lambda r: r.update(counted=False), {}, "no round before round 3 counted"),
        ("summary.json", lambda s: s.update(selected_round=0), {}, "is the one the run began with"),
        ("summary.json", lambda s: s.update(sites={}), {}, "no site could be measured"),
        ("summary.json", lambda s: [s["sites"].pop(n) for n in ("east", "west")], {}, "no held-out site"),
        (
            "summary.json",
            lambda s: s["sites"]["east"].update(auroc_ci=None),
            {"held_out_auroc_min": 0.1},
            "not available",
        ),
        (
            "summary.json",
            lambda s: s["sites"]["east"].update(auroc_ci=[float("nan"), 1.0]),
            {"held_out_auroc_min": 0.1},
            "not available",
        ),
    ],
)
def test_a_run_without_a_result_does_not_enter(
    tmp_path: Path, where: config.Tracking, file: str, change: Any, gates: dict[str, float], said: str
) -> None:
    run = FakeRun(tmp_path / "a").whole()
    edit(run.folder / file, change)
    with pytest.raises(RunFailed, match=said) as refusal:
        register(run.folder, name="empty", alias="champion", gates=config.Gates(**gates), force=True, tracking=where)
    assert refusal.value.exit_code == 1
    assert not (run.folder / "tracking.json").exists()  # nothing was asked of MLflow


def test_names_that_mlflow_refuses_are_refused_before_anything_is_uploaded(tmp_path: Path) -> None:
    for name in ("a/b", "a:b", "", " ", ".."):
        with pytest.raises(MlflowException):  # the rule is MLflow's own
            validation._validate_model_name(name)
        with pytest.raises(MedflError, match="--name"):
            register(tmp_path, name=name, tracking=config.Tracking())
    for alias in ("latest", "LATEST", "v1", "V22", "a b", "a@b", "x" * 256):
        with pytest.raises(MlflowException):
            mlflow_takes_alias(alias)
        with pytest.raises(MedflError, match="--alias"):
            register(tmp_path, name="x", alias=alias, tracking=config.Tracking())
    with pytest.raises(MedflError, match="--alias"):
        register(tmp_path, name="x", alias="", tracking=config.Tracking())


def mlflow_takes_alias(alias: str) -> None:
    validation._validate_model_alias_name(alias)
    validation._validate_model_alias_name_reserved(alias)


@pytest.mark.usefixtures("light")
def test_registering(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a").whole()
    gates = config.Gates(held_out_auroc_min=0.5)
    first = register(run.folder, name="plain", gates=gates, tracking=where)
    assert (first.version, first.alias, first.uri, first.created) == ("1", None, "models:/plain/1", True)
    again = register(run.folder, name="plain", alias="champion", gates=gates, tracking=where)
    assert (again.version, again.uri, again.created) == ("1", "models:/plain@champion", False)
    versions, aliases = registry(where)["plain"]
    assert list(versions) == ["1"]
    assert aliases == {"champion": "1"}
    summary = json.loads((run.folder / "summary.json").read_text())
    tags = versions["1"]
    assert {
        "medfl.run": "a",
        "method": "ecgr",
        "seed": "0",
        "leaky": "false",
        "fingerprint": "feed",
    }.items() <= tags.items()
    assert json.loads(tags["held_out.mean_auroc"]) == summary["held_out"]["mean_auroc"]
    assert json.loads(tags["held_out.sites"]) == {s: summary["sites"][s]["auroc"] for s in ("east", "west")}
    assert tags["held_out.digest"] == held_out_digest(read_run(run.folder))
    version = client_for(str(where.uri)).get_model_version("plain", "1")
    assert version.run_id == first.run_id
    assert version.description.startswith("# fake")
    assert len(version.description) <= 5000
    assert "Models of the pipeline" in client_for(str(where.uri)).get_registered_model("plain").description


@pytest.mark.usefixtures("light")
def test_an_alias_does_not_move_to_a_worse_model(tmp_path: Path, where: config.Tracking) -> None:
    good = FakeRun(tmp_path / "good", skill=3.0).whole()
    poor = FakeRun(tmp_path / "poor", skill=0.5).whole()
    figures = [json.loads((r.folder / "summary.json").read_text())["held_out"]["mean_auroc"] for r in (good, poor)]
    gap = figures[0] - figures[1]
    assert gap > 0.05
    register(good.folder, name="guarded", alias="champion", tracking=where)
    before = registry(where)["guarded"]
    with pytest.raises(GateFailed, match=rf"{figures[1]:.4f} and its holder {figures[0]:.4f}.*margin 0\.01; --force"):
        register(poor.folder, name="guarded", alias="champion", tracking=where)
    assert registry(where)["guarded"] == before
    with pytest.raises(GateFailed):
        register(poor.folder, name="guarded", alias="champion", margin=gap - 1e-6, tracking=where)
    moved = register(poor.folder, name="guarded", alias="champion", margin=gap + 1e-6, tracking=where)
    assert (moved.version, moved.forced) == ("2", "")
    better = register(good.folder, name="guarded", alias="champion", tracking=where)
    assert (better.version, better.created) == ("1", False)
    forced = register(poor.folder, name="guarded", alias="champion", force=True, tracking=where)
    assert "worse by more than the margin" in forced.forced
    versions, aliases = registry(where)["guarded"]
    assert versions["2"]["medfl.forced"] == forced.forced
    assert aliases == {"champion": "2"}


def test_a_holder_measured_on_other_data_is_measured_again(tmp_path: Path, where: config.Tracking) -> None:
    old = FakeRun(tmp_path / "old").whole()
    new = FakeRun(tmp_path / "new", data_seed=1).whole()
    digest = held_out_digest(read_run(old.folder))
    assert digest != held_out_digest(read_run(new.folder))
    assert digest == held_out_digest(read_run(FakeRun(tmp_path / "other", seed=5, rounds=1).begin().folder))
    restained = FakeRun(tmp_path / "restained").begin()
    pipeline = restained.pipeline()
    pipeline["data"]["stain_strength"] = 0.25
    (restained.folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    assert digest != held_out_digest(read_run(restained.folder))
    ours = {s: json.loads((new.folder / "summary.json").read_text())["sites"][s]["auroc"] for s in ("east", "west")}
    register(old.folder, name="measured", alias="champion", tracking=where)
    seen: list[Path] = []

    def holder(figures: dict[str, float | None]) -> Any:
        def evaluate(directory: Path) -> dict[str, float | None]:
            seen.append(directory)
            return figures

        return evaluate

    def attempt(figures: dict[str, float | None] | None) -> str:
        callback = None if figures is None else holder(figures)
        placed = register(new.folder, name="measured", alias="champion", tracking=where, evaluate_holder=callback)
        return placed.version

    with pytest.raises(GateFailed, match="measured on other held-out data"):
        attempt(None)
    with pytest.raises(GateFailed, match="no held-out site has an AUROC of both"):
        attempt({"east": None})
    with pytest.raises(GateFailed, match="no AUROC at north"):
        attempt(ours | {"north": 0.5})
    with pytest.raises(GateFailed, match="worse by more"):
        attempt({site: value + 0.02 for site, value in ours.items()})
    # over the sites that both have, here east alone, the holder is worse
    assert attempt({"east": ours["east"] - 0.02, "west": None}) == "2"
    assert all(load_file(folder / "model.safetensors").keys() for folder in seen)
    assert all(json.loads((folder / "model.json").read_text())["backbone"] == BACKBONE for folder in seen)


class Aliases:
    """As much of MLflow's client as moves an alias: the model "m", whose alias "champion" is at a version."""

    def __init__(self, now: str | None) -> None:
        self.now = now

    def search_registered_models(self, query: str) -> list[Any]:
        return [SimpleNamespace(name="m", aliases={"champion": self.now} if self.now else {})]

    def get_model_version(self, name: str, version: str) -> Any:
        return SimpleNamespace(version=version)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.now = version


@pytest.mark.parametrize(
    ("rival", "now", "moves"),
    [("1", "1", True), ("1", "2", False), (None, "2", False), (None, None, True), ("1", None, True), ("1", "3", True)],
)
def test_an_alias_moves_from_the_version_that_was_compared_only(
    rival: str | None, now: str | None, moves: bool
) -> None:
    client: Any = Aliases(now)
    holder: Any = rival and SimpleNamespace(version=rival)
    ours: Any = SimpleNamespace(version="3")
    if moves:
        _move_alias(client, "m", "champion", holder, ours)
        assert client.now == "3"
        return
    with pytest.raises(GateFailed, match=f"has moved to version {now} while this model was compared with"):
        _move_alias(client, "m", "champion", holder, ours)
    assert client.now == now


def test_refusals_before_anything_happens(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a").begin().play()
    with pytest.raises(MedflError, match=r"not finished.*medfl resume"):
        register(run.folder, name="x", tracking=where)
    run.finish()
    for name, alias in (("a/b", None), ("", None), ("x", "a@b")):
        with pytest.raises(MedflError, match="letters"):
            register(run.folder, name=name, alias=alias, tracking=where)
    assert not (run.folder / "tracking.json").exists()
    facts = json.loads((run.folder / "model.json").read_text()) | {"backbone": "local-dir:/srv/net"}
    (run.folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(MedflError, match="backbone is a local folder"):
        register(run.folder, name="x", tracking=where)


# --- fetching -------------------------------------------------------------------------------------------------------


def test_fetching(tmp_path: Path, where: config.Tracking) -> None:
    run = FakeRun(tmp_path / "a").whole()
    other = FakeRun(tmp_path / "unfinished").begin()
    placed = register(run.folder, name="fetched", alias="champion", tracking=where)
    result = sync(run.folder, where)
    references = ["models:/fetched@champion", "models:/fetched/1", placed.run_id, f"runs:/{result.sites['north']}"]
    for reference in references:
        assert is_reference(reference)
        found = fetch_model(reference, where)
        assert (found.run, found.run_id) == ("a", placed.run_id)
        same = (found.directory / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()
        assert same
        assert json.loads((found.directory / "model.json").read_text())["classes"] == list(CLASSES)
    assert not is_reference("runs")
    unfinished = sync(other.folder, where).run_id
    client_for(str(where.uri)).create_registered_model("empty")
    for reference, sentence in [
        ("models:/fetchd@champion", 'Did you mean "fetched"'),
        ("models:/fetched@champoin", 'Did you mean "champion"'),
        ("models:/fetched/7", "has no version 7; it has 1"),
        ("models:/fetched/one", "has no version one; it has 1"),
        ("models:/empty@champion", "has no alias 'champion'. It has none"),
        ("models:/fetched", "names no model"),
        ("0" * 32, "has no run 000"),
        (unfinished, "has no model; finish the run"),
    ]:
        with pytest.raises(MedflError) as problem:
            fetch_model(reference, where)
        assert sentence in str(problem.value), reference


# --- the card -------------------------------------------------------------------------------------------------------


def test_the_model_card(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "a", method=["fedprox", {"name": "ecgr", "keep": 0.3}]).whole()
    records = read_run(run.folder)
    summary = json.loads((run.folder / "summary.json").read_text())
    model = json.loads((run.folder / "model.json").read_text())
    summary["sites"]["east"] |= {"auroc": 0.9, "auroc_ci": [0.8, 0.95], "few_groups": True}
    pipeline = run.pipeline()
    card = model_card(summary, model, pipeline, records.data)
    for part in (
        "Not a medical device",
        "| east | 60 | 12 | 3 | 0.900 [0.80, 0.95] too few groups |",
        "microns per pixel unknown",
        "fedprox + ecgr, 3 rounds of 2 local epochs, seed 0",
        "Too few source groups for an interval to be trusted",
        "stain strength 0.5",
        "arXiv:2601.03584",
        f"| north | train | 189 | lung_aca 32 %, lung_n 33 %, lung_scc 35 % | {records.data['north'].digest[:12]} |",
        f"mean ECE {summary['held_out']['mean_ece']:.3f}",
    ):
        assert part in card
    for part in ("Leaky", "1912.12142", run.root):
        assert part not in card
    summary["leaky"] = True
    summary["failures"] = [{"site": "north", "reason": "x", "round": 1}]
    pipeline["data"] |= {"source": "lc25000", "mode": "own"}
    elsewhere = pipeline | {"data": pipeline["data"] | {"source": "archive"}}
    assert "Source: patches of the source archive." in model_card(summary, model, elsewhere, records.data)
    card = model_card(summary, model | {"mpp": 0.5}, pipeline | {"method": []})
    for part in (
        "**Leaky",
        "arXiv:1912.12142",
        "978-3-031-73748-0_2",
        "0.5 microns per pixel",
        "FedAvg",
        "(1 failures)",
    ):
        assert part in card
    assert "2601.03584" not in card
    assert "simulated" not in card


# --- nothing that names a path ---------------------------------------------------------------------------------------


def test_no_path_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data root, the run folder's parents and the working directory carry markers; MLflow never sees one."""
    markers = ("MARKERROOT", "MARKERRUNS", "MARKERCWD", "Jane Doe")
    cwd = tmp_path / "MARKERCWD"
    cwd.mkdir()
    for file in ("pyproject.toml", "uv.lock"):  # MLflow would copy them into the model
        (cwd / file).write_text("name = 'MARKERCWD'")
    monkeypatch.chdir(cwd)
    run = FakeRun(
        tmp_path / "MARKERRUNS" / "a",
        root="/srv/MARKERROOT",
        failing=[
            (0, "north", "/srv/MARKERROOT/north/Jane Doe/1.png cannot be read"),
            (1, "south", "Jane Doe is not a patch"),
        ],
    )
    run.begin()
    pipeline = run.pipeline() | {"description": "Made from /srv/MARKERROOT/Jane Doe/x.csv by us"}
    (run.folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    run.play().finish()
    facts = json.loads((run.folder / "model.json").read_text()) | {
        "args": {"pretrained_cfg_overlay": {"file": "/srv/MARKERROOT/x"}}
    }
    (run.folder / "model.json").write_text(json.dumps(facts))
    server = tmp_path / "server"
    where = config.Tracking(uri=f"sqlite:///{server}/mlflow.db", experiment="private")
    register(run.folder, name="private", alias="champion", tracking=where)
    files = [path for path in server.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"mlflow.db", "MLmodel", "rounds.jsonl", "summary.json", "model.json"}
    for path in files:
        content = path.read_bytes()
        assert [marker for marker in markers if marker.encode() in content] == [], path
    assert [
        p for p in files if p.suffix in (".pkl", ".pickle", ".pt", ".pth") or p.name in ("uv.lock", "pyproject.toml")
    ] == []
    described = next(path for path in files if path.name == "MLmodel").read_text()
    assert str(tmp_path) not in described
    assert sys.prefix not in described


# --- the served model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FakeRun(tmp_path_factory.mktemp("served") / "a").whole().folder


def served(weights: Path, facts: Path) -> Any:
    from medfl.tracking.pyfunc_model import PathologyClassifier

    model = PathologyClassifier()
    artifacts = {"weights": str(weights), "config": str(facts), "network": timm_network.__file__}
    model.load_context(SimpleNamespace(artifacts=artifacts))
    return model


def patches(size: int = SIZE) -> np.ndarray[Any, Any]:
    return np.concatenate([draw_copies(label, 1, 0, size, 2) for label in CLASSES])


def test_served_probabilities(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = served(folder / "model.safetensors", folder / "model.json")
    x = patches()
    table = model.predict(None, x)
    assert list(table.columns) == list(CLASSES)
    expected = probabilities(folder, x)
    np.testing.assert_allclose(table.to_numpy(), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.02  # the patches do get different answers
    np.testing.assert_allclose(table.sum(axis=1), 1)
    np.testing.assert_allclose(model.predict(None, x[0]).to_numpy(), expected[:1], atol=1e-5)
    monkeypatch.setattr("medfl.tracking.pyfunc_model.BATCH", 4)
    np.testing.assert_allclose(model.predict(None, x).to_numpy(), expected, atol=1e-5)
    assert model.predict(None, x[:0]).shape == (0, 3)


def test_served_resizing(folder: Path) -> None:
    """Area resize by two is the mean of 2 x 2 pixels, rounded half up to whole grey levels."""
    model = served(folder / "model.safetensors", folder / "model.json")
    x = patches(2 * SIZE)
    means = x.reshape(len(x), SIZE, 2, SIZE, 2, 3).astype(float).mean(axis=(2, 4))
    expected = probabilities(folder, np.floor(means + 0.5).astype(np.uint8))
    np.testing.assert_allclose(model.predict(None, x).to_numpy(), expected, atol=1e-5)


def test_served_temperature(folder: Path, tmp_path: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(facts | {"temperature": 2.0}))
    x = patches()
    cooled = served(folder / "model.safetensors", tmp_path / "model.json").predict(None, x).to_numpy()
    root = np.sqrt(probabilities(folder, x))  # softmax(z / 2) is the normalised square root of softmax(z)
    np.testing.assert_allclose(cooled, root / root.sum(axis=1, keepdims=True), atol=1e-5)


def test_served_vector_scaling(folder: Path, tmp_path: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    vector = {"scale": [2.0, 2.0, 2.0], "bias": [0.0, np.log(3.0), 0.0]}
    (tmp_path / "model.json").write_text(json.dumps(facts | {"temperature": None, "calibration": vector}))
    x = patches()
    scaled = served(folder / "model.safetensors", tmp_path / "model.json").predict(None, x).to_numpy()
    wanted = probabilities(folder, x) ** 2 * [1, 3, 1]  # p -> p^s e^b
    np.testing.assert_allclose(scaled, wanted / wanted.sum(axis=1, keepdims=True), atol=1e-5)


def test_served_refusals(folder: Path, tmp_path: Path) -> None:
    model = served(folder / "model.safetensors", folder / "model.json")
    x = patches()
    with pytest.raises(ValueError, match="uint8"):
        model.predict(None, x.astype(np.float32) / 255)
    for wrong in (x[..., :2], x[0, 0], x[None], x[:, :0]):
        with pytest.raises(ValueError, match=r"\[N, H, W, 3\]"):
            model.predict(None, wrong)
    state = load_file(folder / "model.safetensors")
    spoilt = {name: tensor for name, tensor in state.items() if name != "fc.bias"}
    for broken in (spoilt, state | {"extra": torch.zeros(1)}):
        save_file(broken, tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match=f"do not fit {BACKBONE}"):
            served(tmp_path / "w.safetensors", folder / "model.json")


LOADER = """
import sys, numpy as np, mlflow
if "without medfl" in sys.argv:
    sys.modules["medfl"] = None
try:
    import medfl
except ImportError:
    pass
else:
    raise SystemExit("medfl is installed here")
model = mlflow.pyfunc.load_model("models:/alone@champion")
table = model.predict(np.load("patches.npy"))
np.savez("answer.npz", values=table.to_numpy(), names=list(table.columns))
"""


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "fresh"])
def test_the_registered_model_stands_alone(tmp_path: Path, where: config.Tracking, fresh: bool) -> None:
    """Without medfl it reproduces the probabilities to 1e-4; its own requirements are what this environment has, and
    are enough for a fresh one."""
    if fresh and shutil.which("uv") is None:
        pytest.skip("uv, which builds the fresh environment, is not on PATH")
    run = FakeRun(tmp_path / "a").whole()
    register(run.folder, name="alone", alias="champion", tracking=where)
    model = fetch_model("models:/alone@champion", where).directory.parent
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = elsewhere / "env" / "bin" / "python"
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = kept | {"MLFLOW_TRACKING_URI": str(where.uri), "MLFLOW_DISABLE_TELEMETRY": "true"}
    x = patches()
    np.save(elsewhere / "patches.npy", x)
    (elsewhere / "load.py").write_text(LOADER)
    requirements = model / "requirements.txt"
    build = [
        ["uv", "venv", "--quiet", "--python", sys.executable, "env"],
        ["uv", "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
        [str(python), "load.py"],
    ]
    for command in build if fresh else [[sys.executable, "load.py", "without medfl"]]:
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    shutil.rmtree(elsewhere / "env", ignore_errors=True)  # gigabytes, where the file system has no hard links
    for name, _, pin in (line.partition("==") for line in requirements.read_text().splitlines()):
        assert metadata.version(name) == pin
    answer = np.load(elsewhere / "answer.npz")
    assert list(answer["names"]) == list(CLASSES)
    np.testing.assert_allclose(answer["values"], probabilities(run.folder, x), atol=1e-4)
    described = yaml.safe_load((model / "MLmodel").read_text())
    assert described["signature"]["inputs"]
    assert described["saved_input_example_info"]["type"] == "ndarray"
    assert [p for p in model.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".pth")] == []
