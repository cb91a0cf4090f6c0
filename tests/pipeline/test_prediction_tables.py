"""The tables that a site writes for itself are what its figures per patch, slide and patient are made of."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medfl.engines.remote.codec import Bounds, pack, unpack_answer, unpack_request
from medfl.errors import MedflError
from medfl.federation.checked_transport import CheckedTransport
from medfl.federation.transport import InProcess
from medfl.messages import Failure, HistogramRequest, MeasureRequest
from medfl.metrics.figure_checks import site_figures_check
from medfl.metrics.targets import targets
from medfl.metrics.units import units_of
from medfl.pipeline.prediction_tables import write_predictions
from medfl.site.measurement import Measurement, probabilities, store_units
from medfl.site.site import Site
from tests.bags import toy_bag_store
from tests.toys import CLASSES, toy_bench, toy_store, toy_work

MALIGNANT = ("a", "b")
FACTS = {"classes": list(CLASSES), "malignant": list(MALIGNANT)}
N = 48


@pytest.fixture(scope="module")
def ward() -> Site:
    """A site with 48 test patches of 24 slides and 12 patients."""
    rows = np.arange(N)
    store = dataclasses.replace(
        toy_store("ward", 1, train=0, val=0, test=N),
        groups=rows // 4,
        names=tuple(f"p{row}" for row in rows),
        group_names=tuple(f"patient {number}" for number in range(N // 4)),
        slides=rows // 2,
        slide_names=tuple(f"slide {number}" for number in range(N // 2)),
    )
    return Site("ward", "held_out", store, toy_work(), toy_bench())


def asked(site: Site, **more) -> MeasureRequest:
    model = site.shared.model
    vectors = (0, model.weights(), model.buffers(), ("test",))
    return MeasureRequest(*vectors, resamples=100, thresholds={}, malignant=MALIGNANT, **more)


def read(file) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("top", [0, 2])
def test_auroc_is_scikit_learns_on_the_written_tables(ward, tmp_path, top):
    request = asked(ward, top=top)
    figures = ward.handle(request).metrics["test"]
    probs = probabilities(ward.evaluator.logits(request.weights, request.buffers, "test"))
    write_predictions(tmp_path, ward.store, probs, FACTS | ({"patients": {"top": top}} if top else {}))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["ward.csv", "ward.patients.csv", "ward.slides.csv"]
    for key, count in (("patients", 12), ("slides", 24)):
        rows = read(tmp_path / f"ward.{key}.csv")
        assert len(rows) == figures[key]["n"] == count
        assert figures[key]["n_groups"] == 12
        assert sum(int(row["patches"]) for row in rows) == N
        truth = np.array([row["label"] for row in rows])
        aurocs = {
            name: roc_auc_score(truth == name, [float(row[f"p_{name}"]) for row in rows])
            for name in CLASSES
            if 0 < (truth == name).sum() < count
        }
        assert figures[key]["auroc_per_class"] == pytest.approx({name: aurocs.get(name) for name in CLASSES}, abs=1e-6)
        assert figures[key]["auroc"] == pytest.approx(np.mean(list(aurocs.values())), abs=1e-6)
    patches, slides = read(tmp_path / "ward.csv"), read(tmp_path / "ward.slides.csv")
    assert list(patches[0])[:4] == ["id", "slide", "source_group", "label"]
    assert (slides[5]["slide"], slides[5]["source_group"]) == ("slide 5", "patient 2")
    owner = {row["slide"]: row["source_group"] for row in patches}
    assert {row["slide"]: row["source_group"] for row in slides} == owner


def test_a_model_of_a_sites_own_has_its_figures_per_patient_too(ward):
    measurement = Measurement(ward.store, CLASSES, ward.training)
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(N, len(CLASSES))))
    own, whole = (measurement.figures(asked(ward), "test", logits, personal).figures for personal in (True, False))
    assert own["patients"]["n"] == 12
    for key in ("slides", "patients"):
        assert own[key] == {name: whole[key][name] for name in own[key]}  # at temperature 1 they are the same
        assert "operating" not in own[key]
        assert "ece_before" not in own[key]
    site_figures_check(CLASSES, targets(CLASSES, MALIGNANT), 15)(own, "metrics")


def test_over_bytes_they_are_the_same(ward):
    bounds = Bounds.of(ward.shared.model)
    request = asked(ward, top=2, unit_thresholds={"patients": {"malignant": 0.4}, "slides": {"a": 0.3}})
    histograms = HistogramRequest(0, request.weights, request.buffers, ("test",), malignant=MALIGNANT, top=2)
    for own in (request, histograms):
        here = ward.handle(own)
        there = unpack_answer(pack(ward.handle(unpack_request(pack(own, bounds), bounds)), bounds), "ward", 0, bounds)
        assert not isinstance(there, Failure)
        assert (there.metrics, there.sums) == (here.metrics, here.sums)
    figures = ward.handle(request).metrics["test"]
    assert figures["patients"]["operating"]["malignant"]["threshold"] == 0.4
    assert figures["slides"]["operating"]["a"]["sensitivity"] is not None
    assert figures["slides"]["operating"]["malignant"]["threshold"] is None
    sums = ward.handle(histograms).sums["test"]
    assert {key: sum(sums[key]["positive"][0]) + sum(sums[key]["negative"][0]) for key in sums} == {
        "histograms": 48,
        "slides": 24,
        "patients": 12,
    }


def test_a_patient_figure_that_cannot_be_is_a_named_failure(ward):
    class Liar:
        role = "held_out"

        def handle(self, request):
            reply = ward.handle(request)
            patients = {**reply.metrics["test"]["patients"], "auroc": 1.5}
            return dataclasses.replace(reply, metrics={"test": {**reply.metrics["test"], "patients": patients}})

    for site, honest in ((ward, True), (Liar(), False)):
        (answer,) = CheckedTransport(InProcess({"ward": site}), CLASSES, 15).call(["ward"], lambda name: asked(ward))
        assert isinstance(answer, Failure) != honest
        if isinstance(answer, Failure):
            assert "patients.auroc" in answer.reason


def test_few_patients_tell_nothing_at_any_level(ward):
    shy = Site("ward", "held_out", ward.store, toy_work(min_count=13), ward.shared)
    figures = shy.handle(asked(ward)).metrics["test"]
    assert figures["withheld"]["all"]
    assert not {"patients", "slides"} & set(figures)


def test_slides_are_the_rows_of_a_store_of_bags(tmp_path):
    """Two slides a patient: the patient's score is the mean of theirs, and there is no table of slides beside."""
    store = dataclasses.replace(
        toy_bag_store("ward", 0), names=tuple("abcdefghijklmnop"), group_names=tuple("ABCDEFGH")
    )
    assert list(store_units(store, store.splits["test"], CLASSES, (), 0)) == ["patients"]
    probs = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.2, 0.4, 0.4], [0.6, 0.2, 0.2]])
    write_predictions(tmp_path, store, probs, FACTS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ward.csv", "ward.patients.csv"]
    first, _ = read(tmp_path / "ward.patients.csv")
    assert (first["source_group"], first["label"], first["patches"]) == ("G", "a", "2")
    assert [float(first[f"p_{name}"]) for name in CLASSES] == pytest.approx([0.3, 0.3, 0.4])


def test_a_folder_that_cannot_be_written_is_named(ward, tmp_path):
    (tmp_path / "file").write_text("")
    probs = np.full((N, 3), 1 / 3)
    with pytest.raises(MedflError, match="--predictions"):
        write_predictions(tmp_path / "file", ward.store, probs, FACTS)


def test_a_patient_without_one_class_has_an_empty_label(ward, tmp_path):
    write_predictions(tmp_path, ward.store, np.full((N, 3), 1 / 3), FACTS | {"malignant": []})
    rows = read(tmp_path / "ward.patients.csv")
    labels = ward.store.labels.reshape(12, 4)
    assert [row["label"] for row in rows] == [CLASSES[own[0]] if len(set(own)) == 1 else "" for own in labels]
    assert not units_of(ward.store.labels, ward.store.groups, None, CLASSES)["patients"].labelled
