"""Exported models: a MONAI Bundle and an ONNX file say what `medfl predict` says, and the bundle without medfl."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from medfl.cli import app
from medfl.data.render import read_patches
from medfl.data.synthetic.tissue import draw_copies
from medfl.data.transforms import serving
from medfl.errors import MedflError
from medfl.export import onnx_file, onnx_graphs
from medfl.export.bundle_metadata import metadata
from medfl.export.exported_model import ExportedModel, example_patches
from medfl.export.monai_bundle import inference_config, refuse_expressions
from medfl.export.write_export import export
from medfl.methods.core.chain import build_chain
from medfl.model.backbone import ModelSpec
from medfl.model.flat_model import FlatModel
from medfl.pipeline.evaluate_model import predict, scores
from medfl.pipeline.summary import kept_at_sites
from medfl.pipeline.trained_model import find_model
from tests.runfolders import BACKBONE, CLASSES, SIZE, FakeRun
from tests.wall import walled

KEPT = ["its normalisation layers"]
MARKER = "MARKERROOT"


def inference_of(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MONAI's parser of a bundle's inference, with the bundle's own scripts in reach and no other bundle's."""
    from monai.bundle import ConfigParser

    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(bundle))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    return parser


def settle(run: FakeRun, **changes: Any) -> Path:
    """Make a drawn run's model.json true, so that its network can be built from it."""
    path = run.folder / "model.json"
    model = FlatModel(ModelSpec(BACKBONE, CLASSES), torch.device("cpu"))
    changes = {"fingerprint": model.fingerprint(), "temperature": 1.7, "kept_at_sites": KEPT} | changes
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run.folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settle(FakeRun(tmp_path_factory.mktemp("export") / "a", root=f"/srv/{MARKER}").whole())


VECTOR = {"scale": [0.5, 1.5, 2.0], "bias": [0.4, -0.3, 0.1]}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, calibrated class by class."""
    run = FakeRun(tmp_path_factory.mktemp("export") / "scaled", root=f"/srv/{MARKER}").whole()
    return settle(run, temperature=None, calibration=VECTOR)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of many kinds: another size, not square, turned by EXIF, transparent, grey, 16-bit, a palette."""
    root = tmp_path_factory.mktemp("images")
    tissue = [draw_copies(label, 3, 0, 64, 1)[0] for label in CLASSES]
    (root / "sub").mkdir()
    Image.fromarray(tissue[0][:SIZE, :SIZE]).save(root / "exact.png")
    Image.fromarray(tissue[1]).save(root / "sub" / "twice.tif")
    turned = Image.fromarray(tissue[2][:48])
    turned.getexif()[0x0112] = 6
    turned.save(root / "turned.jpg", exif=turned.getexif())
    alpha = np.dstack([tissue[0], np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))])
    Image.fromarray(alpha).save(root / "transparent.png")
    Image.fromarray(tissue[1][:, :, 0]).save(root / "grey.png")
    Image.fromarray(tissue[2][:, :, 1].astype(np.uint16) * 257).save(root / "sixteen.png")
    Image.fromarray(tissue[0]).quantize(16).save(root / "palette.png")
    (root / ".hidden.png").write_bytes(b"no image")
    return root


# --- MONAI Bundle ---------------------------------------------------------------------------------------------------

# What an environment of monai, torch and timm need not have, medfl above all.
BESIDE = ("medfl", "mlflow", "pydantic", "albumentations", "sklearn", "typer", "onnx")
ELSEWHERE = """
import json, sys
from pathlib import Path
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, load, run
torch.set_num_threads(1)
root, images, out = map(Path, sys.argv[1:])
config = str(root / "configs" / "inference.json")
net = load(root.name, bundle_dir=root.parent, source="github", workflow_type="inference", device="cpu")
torch.save(net.state_dict(), out / "loaded.pt")
places = {"bundle_root": str(root), "dataset_dir": str(images), "device": "$torch.device('cpu')", "batch_size": 3}
run(config_file=config, output_file=str(out / "run.csv"), **places)
workflow = ConfigWorkflow(config, workflow_type="inference", **places)
workflow.initialize()
parser = ConfigParser()
parser.read_config(config)
facts = {"wrong": workflow.check_properties(), "spatial": workflow.spatial_shape, "channels": workflow.channel_def}
facts |= {"temperature": parser.get_parsed_content("temperature"), "modules": sorted(sys.modules)}
(out / "facts.json").write_text(json.dumps(facts))
"""


def test_a_bundle_runs_where_there_is_no_medfl(run: Path, images: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "there" / "bundle"
    told = export(str(run), "monai-bundle", bundle)
    assert told == [
        f"Exported: {bundle}",
        "Each training site keeps its normalisation layers; what is exported is the global model.",
    ]
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    command = [sys.executable, "-c", walled(ELSEWHERE, *BESIDE), str(bundle), str(images), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = predict(find_model(str(run)), images)
    with (tmp_path / "run.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["file", *(f"p_{name}" for name in CLASSES)]
    assert [row[0] for row in rows] == [name for name, _ in expected]
    assert len(rows) == 7
    wanted = np.array([scores for _, scores in expected])
    np.testing.assert_allclose(np.array([row[1:] for row in rows], float), wanted, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 0.02  # the images do get different answers
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["wrong"] == []
    assert facts["spatial"] == [SIZE, SIZE]
    assert facts["channels"] == {str(number): name for number, name in enumerate(CLASSES)}
    assert facts["temperature"] == 1.7
    assert {"scripts.classify", "scripts.images", "scripts.rgb", "scripts.table_cells", "timm"} <= set(facts["modules"])
    loaded = torch.load(tmp_path / "loaded.pt", weights_only=True)
    for name, tensor in load_file(run / "model.safetensors").items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


def test_what_is_in_a_bundle(run: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export(str(run), "monai-bundle", bundle)
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    scripts = {f"scripts/{name}.py" for name in ("__init__", "classify", "images", "rgb", "table_cells")}
    assert files == scripts | {"configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"}
    for name in files - {"models/model.pt"}:
        text = (bundle / name).read_text()
        assert MARKER not in text
        assert str(run.parent) not in text
        assert "import medfl" not in text
        assert "from medfl" not in text
    page = (bundle / "docs" / "README.md").read_text()
    for part in ("Apache License 2.0", "Not a medical device", ", ".join(CLASSES), KEPT[0], "1.7", "### Citations"):
        assert part in page
    assert "from a checkpoint file, whose licence" in page
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(type(tensor) is torch.Tensor for tensor in state.values())


@pytest.fixture
def shaped(run: Path, tmp_path: Path) -> Path:
    """A finished run whose network timm alone does not build: tokens joined, a hidden layer, a gated MLP."""
    args = {"img_size": SIZE, "depth": 1, "embed_dim": 32, "mlp_layer": "SwiGLUPacked"}
    net = {"pooling": "cls+avg", "hidden": 5}
    model = FlatModel(ModelSpec("test_vit", CLASSES, args, **net), torch.device("cpu"), 3)
    folder = shutil.copytree(run, tmp_path / "shaped")
    save_file(model.state_dict(model.weights() * 3, model.buffers()), folder / "model.safetensors")
    facts = json.loads((folder / "model.json").read_text()) | net | {"backbone": "test_vit", "args": args}
    facts.pop("weights", None)
    (folder / "model.json").write_text(json.dumps(facts | {"fingerprint": model.fingerprint()}))
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("digests", None)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_bundle_builds_a_network_that_timm_alone_does_not(shaped: Path, tmp_path: Path, monkeypatch: Any) -> None:
    bundle = tmp_path / "bundle"
    export(str(shaped), "monai-bundle", bundle)
    page = (bundle / "docs" / "README.md").read_text()
    assert "the network alone, where the bundle's folder is on `sys.path`" in page
    text = (bundle / "scripts" / "timm_network.py").read_text()
    assert "import medfl" not in text
    assert "from medfl" not in text
    parser = inference_of(bundle, monkeypatch)
    net = parser.get_parsed_content("network_def")
    assert sys.modules["scripts.timm_network"].__file__ == str(bundle / "scripts" / "timm_network.py")
    net.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    source = ExportedModel.of(find_model(str(shaped)))
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(net.eval()(images), source.net(images))
    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        del sys.modules[name]


@pytest.mark.slow
def test_onnx_says_what_such_a_network_says(shaped: Path, tmp_path: Path) -> None:
    assert "Compared with medfl" in export(str(shaped), "onnx", tmp_path / "m.onnx")[-1]


def test_metadata_has_what_the_schema_requires(run: Path) -> None:
    """The required fields of MONAI's meta_schema_20240725.json, and the types it gives them."""
    found = metadata(ExportedModel.of(find_model(str(run))))
    texts = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"}
    texts |= {"authors", "copyright", "image_classes", "pred_classes", "intended_use"}
    assert all(isinstance(found[name], str) and found[name] for name in texts)
    assert all(isinstance(found[name], dict) for name in ("changelog", "required_packages_version", "eval_metrics"))
    assert {"timm"} <= set(found["required_packages_version"])
    tensors = found["network_data_format"]
    assert set(tensors) == {"inputs", "outputs", "post_processed_outputs"}
    kinds = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list}
    for tensor in (tensor for group in tensors.values() for tensor in group.values()):
        assert {name: type(tensor[name]) for name in kinds} == kinds
        assert all(isinstance(value, int | float) for value in tensor["value_range"])
        assert all(isinstance(value, int | str) for value in tensor["spatial_shape"])
        assert len(tensor["channel_def"]) == tensor["num_channels"] == 3
    # mean 0.4, std 0.25 in green: white is (1 - 0.4) / 0.25; black is lowest in red, -0.5 / 0.2
    assert tensors["inputs"]["image"]["value_range"] == pytest.approx([-2.5, 2.5])
    assert (
        found["eval_metrics"]["held_out_mean_auroc"]
        == ExportedModel.of(find_model(str(run))).summary["held_out"]["mean_auroc"]
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_names_that_would_be_code_are_refused(run: Path, tmp_path: Path) -> None:
    for value in ("$print(1)", ["fine", "@bundle_root"], {"act": {"a": "%x"}}, {"act": {"_target_": "os.system"}}):
        with pytest.raises(MedflError, match=r"would be an expression.*--format onnx"):
            refuse_expressions(value, "model.json: `args`")
    refuse_expressions({"act": "relu", "depth": 3, "cost": ["5$", None]}, "here")
    source = ExportedModel.of(find_model(str(run)))
    spoilt = ExportedModel(source.model, source.facts | {"classes": ["a", "$b"]}, source.summary, source.card)
    with pytest.raises(MedflError, match="`classes` would be"):
        inference_config(spoilt)


# --- ONNX -----------------------------------------------------------------------------------------------------------


def test_a_graph_divides_by_the_temperature(run: Path) -> None:
    source = ExportedModel.of(find_model(str(run)))
    patches = example_patches(SIZE)
    wanted = scores(source.model, patches.numpy(), device="cpu")
    np.testing.assert_allclose(onnx_graphs.PatchGraph(source)(patches).numpy(), wanted, atol=1e-5)


def test_a_bundle_scales_class_by_class(scaled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(str(scaled), "monai-bundle", tmp_path / "bundle")
    parser = inference_of(tmp_path / "bundle", monkeypatch)
    logits = torch.tensor([1.0, 2.0, -1.0])
    wanted = (logits * torch.tensor(VECTOR["scale"]) + torch.tensor(VECTOR["bias"])).softmax(0)
    torch.testing.assert_close(parser.get_parsed_content("postprocessing")({"pred": logits})["pred"], wanted)
    written = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert written["medfl"]["calibration"] == VECTOR
    assert f"vector scaling ({CLASSES[0]} x 0.5 +0.4" in written["pred_classes"]
    assert "calibrates them by vector scaling" in (tmp_path / "bundle" / "docs" / "README.md").read_text()


def test_an_onnx_file_says_what_medfl_says(scaled: Path, images: Path, tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    told = export(str(scaled), "onnx", path)
    assert told[0] == f"Exported: {path} and {path.with_suffix('.json')}"
    assert "within" in told[-1]
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.json"}
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    facts = json.loads(path.with_suffix(".json").read_text())
    inside = {entry.key: entry.value for entry in model.metadata_props}
    assert set(inside) == set(facts)
    assert json.loads(inside["classes"]) == facts["classes"] == list(CLASSES)
    assert facts["input"]["shape"] == ["batch", SIZE, SIZE, 3]
    assert facts["inside"]["temperature"] == 1.0
    assert facts["inside"]["calibration"] == VECTOR
    assert str(scaled.parent) not in path.with_suffix(".json").read_text()
    places = [str(Path(module.__file__ or "").parents[2]).encode() for module in (onnx_file, onnx)]
    assert not any(place in path.read_bytes() for place in places)  # the exporter notes where code lies
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type) for i in session.get_inputs()] == [("patches", "tensor(uint8)")]
    wanted = np.array([scores for _, scores in predict(find_model(str(scaled)), images)])
    patches = read_patches(images, SIZE)[1]
    for count in (1, 2, 7):
        (answer,) = session.run(["probabilities"], {"patches": patches[:count]})
        np.testing.assert_allclose(answer, wanted[:count], atol=1e-4)
    with pytest.raises(MedflError, match="exists already"):
        export(str(scaled), "onnx", path)


def test_an_onnx_file_that_disagrees_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison sees another temperature; the graph is that of the test above, not made again."""
    pytest.importorskip("onnxruntime")

    class Session:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def run(self, _: Any, fed: dict[str, Any]) -> list[Any]:
            return [np.full((len(fed["patches"]), len(CLASSES)), 1 / len(CLASSES))]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    with pytest.raises(MedflError, match=r"other probabilities than medfl.*not kept"):
        onnx_file.compare(ExportedModel.of(find_model(str(run))), tmp_path / "x.onnx")

    def disagrees(source: ExportedModel, path: Path) -> str:
        path.write_bytes(b"half")
        return onnx_file.compare(source, path)

    monkeypatch.setattr(onnx_file, "write_onnx", disagrees)
    monkeypatch.setattr(onnx_file, "require_packages", lambda: None)
    with pytest.raises(MedflError, match="not kept"):
        export(str(run), "onnx", tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MedflError, match=r"needs onnx and onnxscript, which .*medfl-pathology\[onnx\]"):
        export(str(run), "onnx", tmp_path / "x")
    told = onnx_file.compare(ExportedModel.of(find_model(str(run))), tmp_path / "x.onnx")
    assert told.startswith("Not compared with medfl, since onnxruntime is not installed")


def test_what_onnx_cannot_hold_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither refusal needs the packages that write ONNX."""

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no operator for aten::x\nand a page of graph")

    monkeypatch.setattr("torch.onnx.export", fails)
    with pytest.raises(
        MedflError, match=r"cannot be written as ONNX \(no operator for aten::x\); export it with"
    ) as told:
        onnx_file._graph(ExportedModel.of(find_model(str(run))))
    assert "\n" not in str(told.value)
    monkeypatch.setattr(onnx_file, "require_packages", lambda: None)
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    with pytest.raises(MedflError, match="an ONNX file holds 2 GiB"):
        export(str(run), "onnx", tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


# --- refusals -------------------------------------------------------------------------------------------------------


def test_refusals(run: Path, tmp_path: Path) -> None:
    unfinished = FakeRun(tmp_path / "unfinished").begin().play(1).folder
    alone = FakeRun(tmp_path / "alone", method=["local_only"]).begin().play().folder
    (alone / "summary.json").write_text("{}")
    local = settle(FakeRun(tmp_path / "local").whole(), backbone="local-dir:/srv/net")
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "x.json").write_text("{}")
    for reference, form, out, sentence in [
        (run, "monai", tmp_path / "o", r'no format \'monai\'. Did you mean "monai-bundle"\? Known: monai-bundle, onnx'),
        (run, "monai-bundle", here, "here exists already"),
        (run, "onnx", tmp_path / "x.onnx", r"x\.json exists already"),
        (unfinished, "monai-bundle", tmp_path / "o", r"no finished model yet.*medfl resume"),
        (alone, "monai-bundle", tmp_path / "o", "one model a site, so it has no global model"),
        (local, "monai-bundle", tmp_path / "o", "backbone is a local folder"),
        (tmp_path / "none", "monai-bundle", tmp_path / "o", "there is no run at"),
        (run, "monai-bundle", tmp_path / "x.json" / "o", "cannot be written"),
    ]:
        with pytest.raises(MedflError, match=sentence):
            export(str(reference), form, out)
        assert not (tmp_path / "o").exists()


def test_the_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(form: str) -> int:
        out = str(tmp_path / "out")
        monkeypatch.setattr(sys, "argv", ["medfl", "export", str(run), "--format", form, "--out", out])
        try:
            app.main()
        except SystemExit as done:
            return int(done.code or 0)
        return 0

    assert call("coreml") == 2
    assert capsys.readouterr().err.startswith("medfl: --format: there is no format 'coreml'")
    assert call("monai-bundle") == 0
    assert "what is exported is the global model" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "configs" / "inference.json").is_file()


def test_what_stays_at_the_sites() -> None:
    def kept(method: list[Any], buffers: str = "average") -> list[str]:
        return kept_at_sites(build_chain(method), buffers)

    assert kept([]) == kept(["ecgr"]) == []
    assert kept(["fedbn"], "local") == KEPT
    assert kept([], "local") == ["its normalisation statistics"]
    assert kept(["pflalign"]) == ["a model of its own (pflalign)"]
    assert kept(["finetune"], "local") == ["its normalisation statistics", "a model of its own (finetune)"]


# --- a run that transforms its patches ------------------------------------------------------------------------------

RENDER: list[Any] = [{"AdjustContrastd": {"gamma": 2.0}}, {"GaussNoise": {"std_range": [0.1, 0.2]}}]


@pytest.fixture
def transformed(run: Path, tmp_path: Path) -> Path:
    """The same run, had its pipeline stated transforms."""
    folder = Path(shutil.copytree(run, tmp_path / "transformed"))
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(facts | {"render": RENDER}))
    return folder


def test_predictions_see_patches_as_the_run_made_them(run: Path, transformed: Path, images: Path) -> None:
    model = find_model(str(transformed))
    names, patches = read_patches(images, SIZE)
    wanted = scores(find_model(str(run)), serving(RENDER)(patches))
    assert [name for name, _ in predict(model, images)] == names
    np.testing.assert_allclose([row for _, row in predict(model, images)], wanted, atol=1e-6)
    assert np.abs(wanted - scores(find_model(str(run)), patches)).max() > 1e-3


def test_a_bundle_transforms_as_the_run_did(
    transformed: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    export(str(transformed), "monai-bundle", bundle)
    parser = inference_of(bundle, monkeypatch)
    preprocessing = parser.get_parsed_content("preprocessing")
    names, patches = read_patches(images, SIZE)
    facts = json.loads((transformed / "model.json").read_text())
    mean, std = (np.array(facts[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    for name, patch in zip(names, serving(RENDER)(patches), strict=True):
        done = preprocessing({"image": str(images / name)})["image"]
        np.testing.assert_allclose(done, (patch.transpose(2, 0, 1) / 255 - mean) / std, atol=1e-4)
    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        del sys.modules[name]
    needed = json.loads((bundle / "configs" / "metadata.json").read_text())["required_packages_version"]
    assert "albumentations" in needed
    assert "then transformed as in the run: AdjustContrastd, GaussNoise." in (bundle / "docs" / "README.md").read_text()


def test_onnx_refuses_a_run_that_transforms_its_patches(transformed: Path, tmp_path: Path) -> None:
    with pytest.raises(MedflError, match=r"`data.render` \(AdjustContrastd, GaussNoise\) first, which an ONNX"):
        export(str(transformed), "onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
