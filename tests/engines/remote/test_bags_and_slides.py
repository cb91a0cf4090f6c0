"""Sites that hold slides, or features of slides, take part over bytes as they do in one process, and tell no more."""

import json
from pathlib import Path
from typing import Any

import pytest

from medfl.data.partition import own_partition
from medfl.engines.nvflare.run_layout import lay_out
from medfl.engines.remote.party_files import KEY
from medfl.engines.remote.server_endpoint import compare_groups
from medfl.engines.remote.site_endpoint import SiteEndpoint, keyed_groups
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from tests.bags import bag, table, write_layout
from tests.engines.remote.test_endpoints import same_result, spoken
from tests.slides import pyramid, tissue
from tests.tiny import write_tiny

pytest.importorskip("openslide")
CLASSES = ["normal", "tumour"]
SITES = ("east", "north", "west")
GREETING = {"protocol", "site", "role", "versions", "time", "fingerprint", "frozen", "leaky", "allocation", "groups"}
SHORT: dict[str, Any] = {
    "task": {"classes": CLASSES},
    "training": {"rounds": 1, "batch_size": 4},
    "evaluation": {"resamples": 100},
}


def slide_folder(root: Path, seed: int) -> Path:
    """Six slides of a patient each, labelled by the table, with names that are found again anywhere."""
    root.mkdir(parents=True)
    rows = ["slide,patient,label"]
    for number in range(6):
        name = f"Zxslide-{root.name}-{number}"
        pyramid(root / f"{name}.tif", tissue(96, 96, (0, 0, 64, 96), seed=100 * seed + number))
        rows.append(f"{name},Zxpatient-{root.name}-{number},{CLASSES[number % 2]}")
    return table(root / "slides.csv", *rows).parent


def feature_folder(root: Path, seed: int) -> Path:
    """The same as features."""
    names = [f"Zxslide-{root.name}-{number}" for number in range(6)]
    write_layout(root, "TRIDENT", {name: bag(100 * seed + number, 4) for number, name in enumerate(names)})
    rows = [f"Zxpatient-{name[8:]},{name},{CLASSES[number % 2]}" for number, name in enumerate(names)]
    return table(root / "labels.csv", "case_id,slide_id,label", *rows).parent


def consortium(folder: Path, kind: str) -> Path:
    """A pipeline of two sites that train and one held out, each with a folder of its own."""
    write = slide_folder if kind == "slides" else feature_folder
    sites = [
        {"name": name, "data": {"source": kind, "root": str(write(folder / name, seed))}}
        for seed, name in enumerate(SITES)
    ]
    data: dict[str, Any] = {"source": kind, "mode": "own"}
    model: dict[str, Any] = {"mil": "abmil", "dim": 6, "hidden": 4}
    if kind == "slides":
        data |= {"size": 32, "mpp": 1.0, "store": "jpeg"}
        model = {"backbone": "test_byobnet"}
    return write_tiny(
        folder, name=kind, data=data, model=model, sites={"train": sites[:2], "held_out": sites[2:]}, **SHORT
    )


@pytest.mark.parametrize("kind", ["slides", "features"])
def test_a_run_over_bytes_is_the_run_in_one_process_and_names_nothing(tmp_path: Path, kind: str) -> None:
    pipeline = load_pipeline(consortium(tmp_path, kind))
    here = run(pipeline, tmp_path / "here").folder
    laid = lay_out(pipeline, "simulator", tmp_path / "far")
    sent: list[bytes] = []

    def ask(site: str, message: bytes, plain: Any) -> bytes:
        sent.append(plain(site, message))
        return sent[-1]

    assert spoken(laid, ask) == {"done": True}
    same_result(here, laid.folder)
    for site in SITES:
        (laid.home / site / KEY).write_text("00" * 32)
        sent.append(SiteEndpoint(laid.home / site, site).handshake())
        assert json.loads(sent[-1]).keys() == GREETING | {"origin"}
    told = [b.decode("latin-1") for b in sent] + [f.read_text() for f in laid.server.iterdir() if f.name != "run.json"]
    told += [laid.folder.rounds.read_text(), laid.folder.allocation_summary.read_text()]
    assert [word for word in ("Zxslide", "Zxpatient", str(tmp_path / "east")) if word in "".join(told)] == []


@pytest.mark.parametrize("kind", ["slides", "features"])
def test_patients_and_slides_of_two_sites_are_found_by_keyed_hashes(tmp_path: Path, kind: str) -> None:
    pipeline = load_pipeline(consortium(tmp_path, kind))
    (tmp_path / KEY).write_text("07" * 32)

    def keyed(number: int) -> dict[str, tuple[str, ...]]:
        return keyed_groups(own_partition(pipeline, pipeline.all_sites[number], "held_out"), tmp_path / KEY)

    east, north, said = keyed(0), keyed(1), list[str]()
    assert {scope: len(hashes) for scope, hashes in east.items()} == {"own": 6, "slides": 6}
    compare_groups({"east": east, "north": north}, said.append)
    assert not said
    tables = [next((tmp_path / name).glob("*.csv")) for name in SITES[:2]]
    text = tables[1].read_text()
    tables[1].write_text(text.replace("Zxpatient-north-0", "Zxpatient-east-5"))  # one patient, two of their slides
    compare_groups({"east": east, "north": keyed(1)}, said.append)
    assert said[0].startswith("1 source groups have the same names at east and north")
    tables[1].write_text(text)
    suffix = ".tif" if kind == "slides" else ".h5"
    first, second = (next(file for file in (tmp_path / name).rglob(f"Zxslide-{name}-0{suffix}")) for name in SITES[:2])
    second.write_bytes(first.read_bytes())  # under another name, of another patient
    with pytest.raises(MedflError, match="1 slides are at site east and at site north; remove them from one"):
        compare_groups({"east": east, "north": keyed(1)}, said.append)
