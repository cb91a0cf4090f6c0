"""Patches in a report: some of every site, and the test patches the model is most wrongly sure of.

Only for a page that stays where the data is. Nothing here is reached without `--with-patches`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from medfl import config
from medfl.data.partition import Partition, make_partition
from medfl.data.patch_store import PatchStore
from medfl.data.render import render
from medfl.data.stained_store import in_stain
from medfl.errors import MedflError
from medfl.metrics.logit_calibration import Calibration
from medfl.pipeline.build_site import build_shared_model, build_site
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.model_spec import as_saved
from medfl.report.html_blocks import PatchPicture, heading, join, patches, text
from medfl.report.html_page import PageSection
from medfl.report.run_report import Extras
from medfl.report.run_results import IN_PROCESS, Evidence
from medfl.runs.data_record import check_data
from medfl.runs.folder import RunFolder
from medfl.runs.model_facts import model_stain, read_model_facts
from medfl.runs.tensor_files import load_weights
from medfl.seeds import seed_for
from medfl.site.measurement import probabilities

PER_SITE = 8
ALL_SITES = 160
"""Patches a gallery may hold over all sites, and again as many mistakes: the page stays under 5 MB."""
SIDE, QUALITY = 112, 82
ALIKE = 0.9
"""Two patches whose small grey pictures correlate more than this, turned or mirrored, are shown as one."""


PATCHES = "This page shows patches: it belongs to the machine that holds them. The page without them can be passed on."


def with_patches(evidence: Evidence) -> Extras:
    """What `medfl report --with-patches` adds to a page. Raises MedflError as `gallery`, and for sites elsewhere."""
    engine = evidence.summary.get("engine") or IN_PROCESS
    if engine != IN_PROCESS:
        raise MedflError(
            f"{evidence.run.folder} ran on the {engine} engine, so its patches are at the sites and not here; leave "
            "--with-patches out, or run it at a site"
        )
    return Extras((gallery(evidence),), PATCHES, "with-patches")


def gallery(evidence: Evidence) -> PageSection:
    """The section of patches, from the data of the run as it is on this machine now.

    Raises:
        MedflError: the data is not here, or is no longer what the run used.
    """
    folder = RunFolder(evidence.run.folder)
    pipeline = load_pipeline(folder.pipeline)
    shares = {share.site: share for share in make_partition(pipeline).sites if share.site in evidence.roles}
    try:  # pictures of other data would stand beside this run's figures
        check_data(folder, Partition(tuple(shares.values())), pipeline.cache_dir)
    except MedflError as error:
        raise MedflError(f"{error}, or leave --with-patches out") from None
    sites = {site.name: site for site in pipeline.all_sites}
    reference = model_stain(read_model_facts(folder.model_json)) if folder.model_json.is_file() else ()
    stores = {name: in_stain(render(pipeline, sites[name], shares[name]), reference) for name in evidence.roles}
    scores = _scores(evidence, folder, pipeline, stores)
    count = max(1, min(PER_SITE, ALL_SITES // len(stores)))
    blocks: list[Markup] = []
    for name, store in stores.items():
        split, data = ("train", "training") if evidence.roles[name] == "train" else ("test", "test")
        names = shares[name].names if evidence.site else None  # a site knows its files; nobody else should
        rows = _mixed(store, store.splits[split], count)
        shown = [
            PatchPicture(_picture(store, row), evidence.classes[store.labels[row]], name=names[row] if names else "")
            for row in rows
        ]
        blocks += [heading(name), text(f"From its {data} data, as the model sees it:"), patches(shown)]
        if name in scores:
            blocks.append(_mistakes(evidence, store, scores[name], count, names))
    if not scores:
        blocks.append(text("This run keeps one model a site and no final one, so there are no mistakes to show."))
    lead = (
        "Pictures from this machine, never part of what is logged. Mistakes are test patches, the surest error first. "
        "Of a source group, and of patches that look alike, one is shown."
    )
    return PageSection("patches", "Patches", join(*blocks), lead)


def _scores(
    evidence: Evidence, folder: RunFolder, pipeline: config.Pipeline, stores: Mapping[str, PatchStore]
) -> dict[str, NDArray[np.float64]]:
    """Site -> calibrated probabilities [n, C] of its test patches; empty where the run has no global model."""
    if not folder.model.is_file():
        return {}
    pipeline = as_saved(pipeline)
    shared = build_shared_model(pipeline)
    by_name = {site.name: site for site in pipeline.all_sites}
    sites = {name: build_site(pipeline, by_name[name], store, shared) for name, store in stores.items()}
    loaded = folder.load_checkpoint(sites)  # normalisation that sites keep to themselves
    accepted = loaded[0].accepted if loaded else {}
    weights, buffers = shared.model.from_state_dict(load_weights(folder.model))
    probs = {}
    for name, site in sites.items():
        site.restore(site.memory().promoted(accepted.get(name, -1)))
        logits = site.evaluator.logits(*site.own_model(weights, buffers), "test")
        probs[name] = probabilities(logits, Calibration.of(evidence.summary))
    return probs


def _mistakes(
    evidence: Evidence, store: PatchStore, scores: NDArray[np.float64], count: int, names: Sequence[str] | None
) -> Markup:
    rows = store.splits["test"]
    truth, said = store.labels[rows], scores.argmax(1)
    sure = scores.max(1) if len(scores) else np.empty(0)
    wrong = np.flatnonzero(said != truth)
    surest = wrong[np.argsort(-sure[wrong], kind="stable")]
    worst = list(islice(_distinct(store, rows[surest]), count))
    if not worst:
        return text("No test patch of this site was misclassified.")
    classes = evidence.classes
    shown = [
        PatchPicture(
            _picture(store, int(rows[i])),
            f"{classes[truth[i]]}",
            f"taken for {classes[said[i]]}, {sure[i]:.2f}",
            names[rows[i]] if names else "",
        )
        for i in surest[worst]
    ]
    caption = f"{len(wrong)} of {len(rows)} test patches misclassified; {len(shown)} that the model was surest of:"
    return join(text(caption), patches(shown))


def _mixed(store: PatchStore, rows: NDArray[np.int64], count: int) -> list[int]:
    """Rows of all classes in turn, each from a source group of its own, and none that looks like another."""
    shuffled = np.random.default_rng(seed_for("report", store.site)).permutation(rows)
    queues = [shuffled[store.labels[shuffled] == label] for label in np.unique(store.labels[rows])]
    distinct = [queue[list(islice(_distinct(store, queue), count))].tolist() for queue in queues]
    turns = [queue[turn] for turn in range(count) for queue in distinct if turn < len(queue)]
    return sorted(turns[:count], key=lambda row: int(store.labels[row]))


def _distinct(store: PatchStore, rows: NDArray[np.int64]) -> Iterator[int]:
    """Places in `rows` whose patch is of another source group than those before it and looks like none of them."""
    groups: set[int] = set()
    seen: list[NDArray[np.float64]] = []
    for place, row in enumerate(rows.tolist()):
        if int(store.groups[row]) in groups:
            continue
        turned = _turned(np.asarray(store.images[row]))
        if seen and (np.stack(seen) @ turned.T).max() > ALIKE:
            continue
        groups.add(int(store.groups[row]))
        seen.append(turned[0])
        yield place


def _turned(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A patch in small, as it is and turned and mirrored, f64[8, 256], each of mean 0 and length 1."""
    small = np.asarray(Image.fromarray(image).convert("L").resize((16, 16), Image.Resampling.BOX), dtype=np.float64)
    turned = np.stack([np.rot90(side, k).ravel() for side in (small, small[:, ::-1]) for k in range(4)])
    turned -= turned.mean(axis=1, keepdims=True)
    return np.asarray(turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9))


def _picture(store: PatchStore, row: int) -> str:
    """A patch as a `data:` address, small enough for a page of hundreds."""
    image = Image.fromarray(np.asarray(store.images[row]))
    if max(image.size) > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
