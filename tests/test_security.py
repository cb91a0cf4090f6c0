"""Files and messages are data: nothing in them is executed, escapes its folder, or grows without bound, and no name of
a site's data leaves it. See SECURITY.md."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from medfl.config.yaml_file import read_mapping
from medfl.data.catalog import site_catalog
from medfl.data.decode import decode
from medfl.data.image_file import image_readers
from medfl.data.sources import csv_table
from medfl.data.splits import _fold
from medfl.data.store_file import open_store
from medfl.data.transforms import Rendering, albumentations_jitter
from medfl.engines.remote.codec import HEADER, BadMessage, Bounds, unpack_answer, unpack_request
from medfl.engines.remote.site_state import SiteStateFile, StateLost
from medfl.errors import MedflError
from medfl.federation.transport import InProcess
from medfl.messages import TrainRequest
from medfl.model.backbone import ModelSpec, create
from medfl.model.flat_model import FlatModel
from medfl.model.weights_file import find_weights
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.pipeline.trained_model import TrainedModel, find_model
from medfl.runs.folder import RunFolder
from medfl.runs.tensor_files import load_weights
from medfl.tracking import download
from medfl.tracking.connect import client_for
from tests.datafiles import OWN, own_folder, pipeline, site, write_csv, write_folders
from tests.runfolders import tracking
from tests.tiny import write_tiny

BOUNDS = Bounds(3, 2)
MARKER = "Zebedee7"  # in the folder, file, patient and label names of every site


class Bomb:
    """Its unpickling makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def bomb(tmp_path):
    """(the bytes of a bomb, where it would leave its mark); afterwards the mark must not be there."""
    mark = tmp_path / "exploded"
    yield pickle.dumps(Bomb(mark)), mark
    assert not mark.exists()


def refused(call, *arguments) -> str:
    """The one sentence with which a call is refused."""
    with pytest.raises(MedflError) as error:
        call(*arguments)
    assert str(error.value).count("\n") == 0
    return str(error.value)


# --- nothing is executed


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").is_dir()


@pytest.mark.parametrize("name", ["start.pt", "start.pth", "start.safetensors"])
def test_a_checkpoint_is_weights_only(tmp_path, bomb, name):
    file = tmp_path / name

    def load() -> None:
        find_weights(str(file)).load_into(torch.nn.Linear(2, 2))

    file.write_bytes(bomb[0])
    assert "`model.weights`" in refused(load)
    torch.save({"state_dict": Bomb(bomb[1])}, file)
    assert "`model.weights`" in refused(load)
    for odd in ([torch.zeros(1)], {"state_dict": 3}):
        torch.save(odd, file)
        assert "`model.weights`" in refused(load)


def test_a_models_arguments_name_no_file(tmp_path, bomb):
    file = tmp_path / "x.pt"
    file.write_bytes(bomb[0])
    for args in ({"checkpoint_path": str(file)}, {"pretrained_cfg": {"file": str(file)}}):
        spec = ModelSpec("test_byobnet", ("a", "b"), args)
        assert f"`model.args.{next(iter(args))}`" in refused(create, spec, 0)
    for backbone in ("hf-hub:someone/model", f"local-dir:{tmp_path}"):
        assert "only timm's own names" in refused(create, ModelSpec(backbone, ("a", "b")), 0)


def test_a_transform_calls_nothing_that_a_file_names(bomb):
    reads = {"LoadImaged": {"reader": "os.mkdir", "path": str(bomb[1])}}
    assert "LoadImaged may not be named" in refused(Rendering, [reads], "site x")
    assert "SaveImaged may not be named" in refused(Rendering, ["SaveImaged"], "site x")


def test_a_transform_touches_no_file_and_calls_no_function(tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("path,label\n")
    saves = {"output_dir": str(tmp_path), "filename": table.name, "meta_key_postfix": None, "overwrite": True}
    for spec in (
        {"SaveClassificationd": saves},
        {"SaveClassificationDict": saves},
        {"WriteFileMappingd": {"mapping_file_path": str(table)}},
        {"Lambdad": {"func": "os.mkdir"}},
        {"TorchVisiond": {"name": "Lambda", "lambd": "x"}},
        {"TextImage": {"font_path": str(table), "metadata_key": "x"}},
        {"FDA": {"reference_images": [str(table)], "read_fn": "os.mkdir"}},
        {"Lambda": {"image": "os.mkdir"}},
    ):
        assert "may not be named in a file" in refused(Rendering, [spec], "site x")
    assert "may not be named in a file" in refused(albumentations_jitter, ["Lambda"], "x")
    for argument in (os.mkdir, [{"a": os.mkdir}], datetime.date(2024, 1, 1)):
        assert "may be numbers, text" in refused(Rendering, [{"GaussNoise": {"std_range": argument}}], "site x")
    assert table.read_text() == "path,label\n"


def test_a_run_folder_is_data(tmp_path, bomb):
    folder = RunFolder(tmp_path)
    assert folder.load_checkpoint({}) is None
    folder.model.write_bytes(bomb[0])
    assert "model.safetensors" in refused(load_weights, folder.model)
    folder.checkpoint.mkdir()
    (folder.checkpoint / "state.json").write_text("{}")
    (folder.checkpoint / "server.safetensors").write_bytes(bomb[0])
    assert "is damaged" in refused(folder.load_checkpoint, {})


def test_arrays_hold_no_objects(tmp_path, bomb):
    store = tmp_path / "store"
    store.mkdir()
    np.save(store / "images.npy", np.array([Bomb(bomb[1])], dtype=object), allow_pickle=True)
    (store / "store.json").write_text(json.dumps({"shape": [1], "bad": {}}))
    cache = tmp_path / "cache"
    counts = np.ones((6, 2), dtype=np.int64)
    right = _fold(counts, 0.5, 1, cache)
    (file,) = cache.iterdir()
    shutil.copy(store / "images.npy", file)
    assert open_store(store, "a") is None  # rendered again
    assert np.array_equal(_fold(counts, 0.5, 1, cache), right)


def test_a_sites_kept_state_is_data(tmp_path, bomb):
    (tmp_path / "run1.safetensors").write_bytes(bomb[0])
    with pytest.raises(StateLost, match="damaged"):
        SiteStateFile(tmp_path, "run1", SimpleNamespace(name="a", state={}, pending=None))


@pytest.mark.parametrize("where", ["message", "header", "vectors"])
def test_a_message_is_data(bomb, where):
    whole = bytes(save({}, {HEADER: '{"kind": "failure", "site": "a", "round": 0, "reason": "x"}'}))
    spoilt = {"header": len(bomb[0]).to_bytes(8, "little") + bomb[0], "vectors": whole + bomb[0], "message": bomb[0]}
    data = spoilt[where]
    assert unpack_answer(whole, "a", 0, BOUNDS).reason == "x"
    for take in (lambda: unpack_request(data, BOUNDS), lambda: unpack_answer(data, "a", 0, BOUNDS)):
        with pytest.raises(BadMessage):
            take()


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" + 400 * "0", "1" + 5000 * "0"])
def test_a_message_holds_numbers_that_can_be_reckoned_with(number):
    fields = {"site": "a", "round": 0, "samples": 1, "steps": 1, "fingerprint": "", "sums": {}, "curves": {}}
    fields |= {"kind": "reply", "train_loss": None, "seconds": {}, "metrics": {"val": {"auroc": "NUMBER"}}}
    text = json.dumps(fields).replace('"NUMBER"', number)
    with pytest.raises(BadMessage, match="no JSON"):
        unpack_answer(bytes(save({}, {HEADER: text})), "a", 0, BOUNDS)


def test_a_model_from_mlflow_is_data(tmp_path, bomb, monkeypatch):
    def served(name: str, facts: str) -> TrainedModel:
        (tmp_path / "model.json").write_text(facts)
        (tmp_path / "model.safetensors").write_bytes(bomb[0])
        found = download.Fetched(tmp_path, name, "0" * 32, "runs:/x")
        monkeypatch.setattr("medfl.pipeline.trained_model.fetch_model", lambda reference, tracking: found)
        return find_model("runs:/" + "0" * 32, runs=tmp_path / "runs")

    assert "model.json cannot be read" in refused(served, "x", "{")
    assert "does not say what model" in refused(served, "x", "{}")
    spec = ModelSpec("test_byobnet", ("a", "b"))
    facts = {"run": "x", "backbone": spec.backbone, "classes": ["a", "b"], "args": {}, "versions": {"timm": "1"}}
    facts |= {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    facts["fingerprint"] = FlatModel(spec, torch.device("cpu")).fingerprint()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pipeline.yaml").touch()
    for name in ("../elsewhere", str(tmp_path / "elsewhere")):
        assert served(name, json.dumps(facts)).run is None  # the tag names a run beside the others or none
    assert "not a readable safetensors" in refused(served("x", json.dumps(facts)).load, "cpu")


# --- nothing escapes


@pytest.mark.parametrize("what", ["file", "folder", "class"])
def test_a_link_out_of_the_data_root_is_refused(tmp_path, what):
    root = write_folders(tmp_path / "own", {"lung_aca": 4, "lung_n": 4})
    other = write_folders(tmp_path / "other", {"lung_scc": 2}) / "lung_scc"
    place = {
        "file": root / "lung_n" / "lung_n-p00" / "x.png",
        "folder": root / "lung_n" / "x",
        "class": root / "lung_scc",
    }
    place[what].symlink_to(next(other.rglob("*.png")) if what == "file" else other)
    made = pipeline([], [site("here", root, "folder")], mode="own")
    assert "leads out of" in refused(site_catalog, made, made.held_out_sites[0])


def test_a_root_that_is_a_link_and_links_inside_it_are_followed(tmp_path):
    root = write_folders(tmp_path / "own", {"lung_aca": 4, "lung_n": 4})
    (root / "lung_scc").symlink_to(root / "lung_n")
    (tmp_path / "alias").symlink_to(root)
    made = pipeline([], [site("here", tmp_path / "alias", "folder")], mode="own")
    assert len(site_catalog(made, made.held_out_sites[0]).references) == 12


# --- nothing grows without bound


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
        ("a: !!python/object/apply:os.mkdir [MARK]\n", "not valid YAML"),
        ("a: !!python/name:os.system\n", "not valid YAML"),
        ("a: " + "[" * 50_000, "nested too deeply"),
        ("a: 2024-99-99\n", "not valid YAML"),
        ("[a]: b\n", "not valid YAML"),
        ("a: " + "1" * 5000, "not valid YAML"),
    ],
    ids=["aliases", "object", "name", "depth", "date", "key", "digits"],
)
def test_yaml_is_plain(tmp_path, bomb, text, says):
    file = tmp_path / "p.yaml"
    file.write_text(text.replace("MARK", str(bomb[1])))
    assert says in refused(read_mapping, file, "pipeline")


def test_a_file_of_settings_has_a_largest_size(tmp_path):
    file = tmp_path / "p.yaml"
    file.touch()
    os.truncate(file, 2_000_001)
    assert "larger than 2 MB" in refused(read_mapping, file, "site")


def test_a_table_has_a_largest_size(tmp_path, monkeypatch):
    table = write_csv(tmp_path / "t.csv", ("path", "label"), [("a", "b")] * 9)
    monkeypatch.setattr(csv_table, "MAX_LINES", 10)
    assert len(csv_table.read_rows(table, "site x", [("path", "label")])) == 9
    monkeypatch.setattr(csv_table, "MAX_LINES", 9)
    assert "more than 9 lines" in refused(csv_table.read_rows, table, "site x", [("path", "label")])
    os.truncate(table, csv_table.MAX_BYTES + 1)  # a hole: takes no room
    assert "more than 256 MB" in refused(csv_table.read_rows, table, "site x", [("path", "label")])


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_a_giant_image_is_not_decoded(tmp_path, side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    file = tmp_path / "x.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    (found,) = decode(image_readers([file]), 16)
    assert "at most 100 megapixels" in str(found)


# --- nothing of a site's names leaves it


def marked_site(home: Path, name: str, seed: int) -> dict:
    """A site's own data with the marker in root, label, patient and file names, among those spelt alike, and in that of
    an image that is none."""
    root = own_folder(home / f"{MARKER} {name}", {f"{MARKER} a": 0, f"{MARKER} b": 1}, seed)
    for label in sorted(root.iterdir()):
        for patient in sorted(label.iterdir()):
            for image in sorted(patient.iterdir()):
                image.rename(patient / f"{MARKER}-{image.name}")
            patient.rename(label / f"{MARKER} {patient.name}")
    (next(label.iterdir()) / f"{MARKER}-broken.png").write_bytes(b"no image")
    labels = {f"{MARKER} a": "lung_aca", f"{MARKER} b": "lung_n"}
    alike = [f"{MARKER} 017", f"{MARKER} 17"]
    return {"name": name, "data": {"root": str(root), "distinct_names": alike}, "labels": labels}


def test_no_name_of_a_sites_data_leaves_it(tmp_path, monkeypatch):
    where = tracking("marked")
    home = tmp_path / MARKER
    sites = {
        role: [marked_site(home, f"{role}-{n}".replace("_", "-"), n) for n in range(k)]
        for role, k in (("train", 2), ("held_out", 1))
    }
    file = write_tiny(
        tmp_path,
        name="marked",
        task={"classes": ["lung_aca", "lung_n"]},
        data={**OWN, "on_bad_image": "skip"},
        sites=sites,
        training={"rounds": 1, "quorum": 0.5},
        tracking={"enabled": True, "uri": where.uri, "experiment": "marked"},
    )
    heard: list[str] = []
    plain = InProcess.call

    class Broken:
        """A site that cannot read a file in the first round."""

        def __init__(self, site) -> None:
            self.site = site

        def handle(self, request):
            if isinstance(request, TrainRequest):
                raise OSError(5, "Input/output error", f"{home}/x.png")
            return self.site.handle(request)

    def call(self, names, request):
        chosen = InProcess({n: Broken(s) if n == "train-1" else s for n, s in self.sites.items()})
        for answer in plain(chosen, names, request):
            heard.append(repr(answer))
            yield answer

    monkeypatch.setattr(InProcess, "call", call)
    folder = run(load_pipeline(file), tmp_path / "out").folder
    assert any("OSError at the site" in text for text in heard)
    assert len(heard) > 8
    assert MARKER in folder.allocation.read_text()  # which stays, and shows that the marker was there to leak
    assert not [text for text in heard if MARKER in text]
    stays = {"pipeline.yaml", "allocation.csv", "tracking.json"}
    files = [path for path in folder.path.rglob("*") if path.is_file() and path.name not in stays]
    assert {"rounds.jsonl", "summary.json", "model.json", "curves.json", "allocation_summary.csv", "report.html"} <= {
        path.name for path in files
    }
    assert not [path.name for path in files if MARKER.encode() in path.read_bytes()]

    client = client_for(str(where.uri))
    experiment = client.get_experiment_by_name("marked")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 4
    for logged in runs:
        assert MARKER not in repr(logged.to_dictionary())
        place = tmp_path / "logged" / logged.info.run_id
        place.mkdir(parents=True)
        client.download_artifacts(logged.info.run_id, "", str(place))
        assert not [path.name for path in place.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()]
    assert {"pipeline.yaml", "report.html"} <= {path.name for path in (tmp_path / "logged").rglob("*")}
