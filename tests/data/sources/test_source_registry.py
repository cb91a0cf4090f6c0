"""A source is one class: patches that are no files go through catalog, partition, store, batches and parties."""

import csv
import hashlib
from importlib.metadata import EntryPoint
from typing import ClassVar

import numpy as np
import pytest
import torch

from medfl.data import render as rendering
from medfl.data.batches import AugmentSpec, Batches
from medfl.data.catalog import pipeline_catalog, site_catalog
from medfl.data.duplicates.leakage import find_leaks
from medfl.data.partition import make_partition
from medfl.data.patch_store import U8
from medfl.data.render import render
from medfl.data.rgb import Unreadable
from medfl.data.sources import source_registry
from medfl.data.sources.source import PatchEntry, Source
from medfl.data.sources.source_registry import drawn_data, source_class
from medfl.engines.remote.party_files import read_site, write_site
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.datafiles import pipeline, pixels, site

CLASSES = ("benign", "malignant")


class Memory(Source):
    """Patches that exist as arrays only; a reference is a key."""

    kind = "memory"
    arrays: ClassVar[dict[str, U8]] = {}

    @property
    def place(self) -> str:
        return "memory"

    def entries(self) -> list[PatchEntry]:
        parts = [(key, *key.split("|")) for key in sorted(self.arrays)]
        return [PatchEntry(word, number, key, patient) for key, word, patient, number in parts]

    def read(self, reference: str) -> U8:
        if not self.arrays[reference].any():
            raise Unreadable("nothing there")
        return self.arrays[reference]

    def byte_count(self, reference: str) -> int:
        return self.arrays[reference].nbytes

    def fingerprint(self, reference: str) -> str:
        return hashlib.sha256(self.arrays[reference].tobytes()).hexdigest()


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, U8]:
    """The patches `class|patient|number`, of a source that is registered for one test."""
    keys = [f"{word}|p{patient}|{number}" for word in CLASSES for patient in range(8) for number in range(2)]
    monkeypatch.setattr(Memory, "arrays", {key: pixels(seed, 40) for seed, key in enumerate(keys)})
    monkeypatch.setitem(source_registry.SOURCES, "memory", Memory)
    return Memory.arrays


def dealt(**data: object):
    return pipeline([site("a", patches=16)], [site("b", patches=12)], classes=CLASSES, source="memory", **data)


def test_a_catalog_lists_what_the_source_lists(memory):
    catalog = pipeline_catalog(dealt())
    assert catalog.references == tuple(sorted(memory))
    assert catalog.names[:2] == ("benign/0", "benign/1")
    assert catalog.group_names == tuple(f"p{patient}" for patient in range(8))
    assert np.bincount(catalog.labels).tolist() == [16, 16]
    assert not catalog.groups_unknown
    assert pipeline_catalog(dealt(source_groups="ignore")).groups_unknown
    memory["worse|p0|0"] = pixels(0)
    with pytest.raises(MedflError, match=r'pipeline toy: the label "worse" of memory is no class of `task.classes`'):
        pipeline_catalog(dealt())
    del memory["worse|p0|0"]
    memory["benign||0"] = pixels(0)
    with pytest.raises(MedflError, match="memory does not say which patches come from one source"):
        pipeline_catalog(dealt())


def test_patches_that_are_no_files_become_batches(memory, tmp_path):
    made = dealt(size=40)
    partition = make_partition(made)
    partition.write(tmp_path / "allocation.csv")
    with (tmp_path / "allocation.csv").open(newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} <= set(memory)
    training, held_out = partition.sites
    assert not set(training.groups) & set(held_out.groups)
    store = render(made, made.train_sites[0], training)
    for row, reference in enumerate(training.references):
        assert np.array_equal(store.images[row], memory[reference])
    plain = AugmentSpec(flips=False, rotate90=False)
    batches = Batches(store, torch.device("cpu"), (0.0,) * 3, (1.0,) * 3, plain)
    order = torch.from_numpy(store.splits["train"][:4]).view(1, 4)
    ((images, labels),) = batches.training(order, seed=0)
    references = [training.references[row] for row in order[0].tolist()]
    expected = np.stack([memory[reference] for reference in references]).transpose(0, 3, 1, 2) / 255
    assert np.allclose(images.numpy(), expected, atol=1e-6)
    assert [CLASSES[label] for label in labels.tolist()] == [reference.split("|")[0] for reference in references]


def test_a_store_is_found_by_fingerprints(memory, monkeypatch):
    made = dealt()
    (share, _) = make_partition(made).sites
    first = render(made, made.train_sites[0], share)
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "write_store", lambda *_: pytest.fail("rendered again"))
        assert render(made, made.train_sites[0], share).digest == first.digest
    memory[share.references[0]] = pixels(999, 40)
    assert render(made, made.train_sites[0], share).digest != first.digest


def test_an_unreadable_patch_is_named_by_its_source(memory):
    made = dealt()
    (share, _) = make_partition(made).sites
    memory[share.references[3]] = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(MedflError) as error:
        render(made, made.train_sites[0], share)
    assert f"1 of {len(share.rows)} images cannot be read: {share.references[3]} (nothing there)" in str(error.value)


def test_one_patch_at_two_sites_is_refused():
    own = {"data": {"source": "memory"}}
    made = pipeline([{"name": "a", **own}], [{"name": "b", **own}], classes=CLASSES)
    with pytest.raises(MedflError, match="the source group p0 is in two places, site a"):
        make_partition(made)
    made = made.model_copy(
        update={"data": made.data.model_copy(update={"source": "memory", "source_groups": "ignore"})}
    )
    with pytest.raises(MedflError, match=r"source group benign/0 is in two places, site a"):
        make_partition(made)


def test_the_search_for_copies_reads_through_the_source(memory, tmp_path):
    found = find_leaks(make_partition(dealt()), 0.75, False, lambda *_: None)
    assert set(found.locations) <= set(memory)
    assert not found.unreadable


def test_a_party_is_given_references(tmp_path):
    made = dealt()
    (share, _) = make_partition(made).sites
    write_site(tmp_path / "a", made, made.train_sites[0], share)
    rebuilt, here, again = read_site(tmp_path / "a", "a")
    assert again.references == share.references
    one, other = render(rebuilt, here, again), render(made, here, share)
    assert np.array_equal(one.images, other.images)
    assert one.names == other.names
    table = tmp_path / "a" / "allocation.csv"
    table.write_text(table.read_text().replace(share.references[0], "benign|p99|0"))
    with pytest.raises(MedflError, match=r"1 of \d+ patches of .* are not there, the first is benign\|p99\|0"):
        read_site(tmp_path / "a", "a")


def test_a_pipeline_file_names_a_source(tmp_path):
    file = tmp_path / "p.yaml"
    text = (
        "{name: p, task: {classes: [benign, malignant]}, data: {source: SOURCE}, sites: {train: [{name: a}]}, "
        "model: {backbone: resnet18}, training: {rounds: 1}}"
    )
    file.write_text(text.replace("SOURCE", "memory"))
    assert len(make_partition(load_pipeline(file)).sites[0].rows) == 32
    file.write_text(text.replace("SOURCE", "memry"))
    sentence = r"p.yaml: `data.source`: there is no source 'memry'.*\"memory\".*csv, features, folder"
    with pytest.raises(MedflError, match=sentence):
        load_pipeline(file)
    file.write_text(text.replace("SOURCE", "memory").replace("name: a}", "name: a, data: {source: foldr}}"))
    with pytest.raises(MedflError, match=r"p.yaml: site a: `data.source`: there is no source 'foldr'.*\"folder\""):
        load_pipeline(file)


def test_an_installed_package_may_bring_a_source(monkeypatch):
    entry = EntryPoint("elsewhere", f"{__name__}:Memory", "medfl.sources")
    monkeypatch.setattr(source_registry, "entry_points", lambda group: [entry] if group == entry.group else [])
    assert source_class("elsewhere").kind == "memory"


def test_the_built_in_sources():
    known = {kind: source_class(kind) for kind in ("lc25000", "folder", "csv", "tissue")}
    assert {kind: source.kind for kind, source in known.items()} == {kind: kind for kind in known}
    assert [kind for kind, source in known.items() if source.dealt_only] == ["tissue"]
    made = pipeline([site("a", source="tissue")], classes=CLASSES)
    with pytest.raises(MedflError, match=r"site a: `data.source` is tissue, which is generated and dealt"):
        site_catalog(made, made.train_sites[0])


def test_what_a_pipeline_draws_is_said_by_its_sources():
    sites = {"train": [{"name": "a"}], "held_out": [{"name": "b", "data": {"root": "/b"}}]}
    drawn = {
        kind: drawn_data({"data": {"source": kind}, "sites": sites}) for kind in ("tissue", "features", "slides", "csv")
    }
    assert drawn == {"tissue": ["Tissue"], "features": ["Features"], "slides": ["Slides"], "csv": []}
    assert drawn_data({"data": {"source": "slides", "root": "/x"}, "sites": sites}) == []
    own = {"train": [{"name": "a", "data": {"source": "slides", "root": "/a"}}]}
    assert drawn_data({"data": {"source": "features"}, "sites": own}) == []
    assert drawn_data({"data": {"source": "tissue"}, "sites": {}}) == ["Tissue"]


def test_slides_are_bags_for_a_model_over_bags_which_names_their_encoder(tmp_path):
    assert not source_class("slides").gives_bags
    assert source_class("slides", bags=True).gives_bags
    plan = {
        "name": "p",
        "task": {"classes": ["a", "b"]},
        "data": {"source": "slides", "size": 32, "mpp": 1.0},
        "sites": {"train": [{"name": "a"}]},
        "model": {"mil": "abmil", "dim": 8},
        "training": {"rounds": 1},
    }
    with pytest.raises(MedflError, match=r"`model.mil: abmil` .* `data.source: slides`; add `model.encoder"):
        load_pipeline(plan)
    assert load_pipeline({**plan, "model": {"mil": "abmil", "encoder": {"weights": "package"}}}).model.dim is None
    for model, sentence in (
        ({"mil": "abmil"}, "or name the `encoder`"),
        ({"mil": "abmil", "backbone": "resnet18", "dim": 8}, "write it under `encoder`"),
        ({"backbone": "resnet18", "encoder": {"weights": "package"}}, "`encoder` gives feature vectors of tiles"),
        ({"mil": "abmil", "encoder": {"weights": "random"}}, "the key `backbone` is missing"),
    ):
        with pytest.raises(MedflError, match=sentence):
            load_pipeline({**plan, "model": model})
