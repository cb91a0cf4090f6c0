"""Patches in a report: some of every site, and the test patches the model is most wrongly sure of.

Only for a page that stays where the data is. Nothing here is reached without `--with-patches`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from medfl import config
from medfl.data.partition import Partition, make_partition
from medfl.data.patch_store import PatchStore
from medfl.data.render import render
from medfl.errors import MedflError
from medfl.pipeline.build_site import build_shared_model, build_site
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.model_spec import as_saved
from medfl.report.html_blocks import PatchPicture, heading, join, patches, text
from medfl.report.html_page import PageSection
from medfl.report.run_report import Extras
from medfl.report.run_results import IN_PROCESS, Evidence
from medfl.runs.data_record import check_data
from medfl.runs.folder import RunFolder
from medfl.runs.tensor_files import load_weights
from medfl.seeds import seed_for
from medfl.site.measurement import probabilities

PER_SITE = 8
ALL_SITES = 160
"""Patches a gallery may hold over all sites, and again as many mistakes: the page stays under 5 MB."""
SIDE, QUALITY = 112, 82


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
    stores = {name: render(pipeline, sites[name], shares[name]) for name in evidence.roles}
    scores = _scores(evidence, folder, pipeline, stores)
    count = max(1, min(PER_SITE, ALL_SITES // len(stores)))
    blocks: list[Markup] = []
    for name, store in stores.items():
        split, data = ("train", "training") if evidence.roles[name] == "train" else ("test", "test")
        rows = _mixed(store, store.splits[split], count)
        shown = [PatchPicture(_picture(store, row), evidence.classes[store.labels[row]]) for row in rows]
        blocks += [heading(name), text(f"From its {data} data, as the model sees it:"), patches(shown)]
        if name in scores:
            blocks.append(_mistakes(evidence, store, scores[name], count))
    if not scores:
        blocks.append(text("This run keeps one model a site and no final one, so there are no mistakes to show."))
    lead = (
        "Pictures from this machine, never part of what is logged. Mistakes are test patches, the surest error first."
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
        probs[name] = probabilities(logits, evidence.summary.get("temperature"))
    return probs


def _mistakes(evidence: Evidence, store: PatchStore, scores: NDArray[np.float64], count: int) -> Markup:
    rows = store.splits["test"]
    truth, said = store.labels[rows], scores.argmax(1)
    sure = scores.max(1) if len(scores) else np.empty(0)
    wrong = np.flatnonzero(said != truth)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:count]
    if not len(worst):
        return text("No test patch of this site was misclassified.")
    classes = evidence.classes
    shown = [
        PatchPicture(
            _picture(store, int(rows[i])), f"{classes[truth[i]]}", f"taken for {classes[said[i]]}, {sure[i]:.2f}"
        )
        for i in worst
    ]
    told = f"{len(wrong)} of {len(rows)} test patches misclassified; the {len(shown)} the model was surest of:"
    return join(text(told), patches(shown))


def _mixed(store: PatchStore, rows: NDArray[np.int64], count: int) -> list[int]:
    """Rows of all classes in turn, each from a source group of its own as long as there are some."""
    shuffled = np.random.default_rng(seed_for("report", store.site)).permutation(rows)
    queues = []
    for label in np.unique(store.labels[rows]):
        mine = shuffled[store.labels[shuffled] == label]
        _, first = np.unique(store.groups[mine], return_index=True)
        queues.append([*mine[np.sort(first)], *np.delete(mine, first)])
    turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return sorted((int(row) for row in turns[:count]), key=lambda row: int(store.labels[row]))


def _picture(store: PatchStore, row: int) -> str:
    """A patch as a `data:` address, small enough for a page of hundreds."""
    image = Image.fromarray(np.asarray(store.images[row]))
    if max(image.size) > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
