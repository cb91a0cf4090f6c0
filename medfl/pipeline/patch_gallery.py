"""Patches in a report: some of every site, and the test patches the model is most wrongly sure of.

Only for a page that stays where the data is. Nothing here is reached without `--with-patches`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import cast

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medfl import config
from medfl.data.bag_store import BagStore, SiteStore
from medfl.data.partition import Partition, SitePartition, make_partition
from medfl.data.patch_store import PatchStore
from medfl.data.render import render_settings
from medfl.data.sources.feature_folders import FeatureFolders
from medfl.data.sources.whole_slides import WholeSlides
from medfl.data.stained_store import in_stain
from medfl.errors import MedflError
from medfl.metrics.logit_calibration import Calibration
from medfl.pipeline.build_site import build_shared_model, build_site
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.model_spec import as_saved
from medfl.pipeline.site_stores import SiteStores
from medfl.pipeline.slide_gallery import SlideScores, slide_blocks, slide_section
from medfl.pipeline.trained_model import find_model
from medfl.report.embedded_picture import embedded
from medfl.report.html_blocks import PatchPicture, heading, join, patches, text
from medfl.report.html_page import PageSection
from medfl.report.run_report import Extras
from medfl.report.run_results import IN_PROCESS, Evidence
from medfl.runs.data_record import check_data
from medfl.runs.folder import RunFolder
from medfl.runs.model_facts import model_stain, read_model_facts
from medfl.runs.purge import check_unpurged
from medfl.runs.tensor_files import load_weights
from medfl.seeds import seed_for
from medfl.site.measurement import probabilities
from medfl.site.shared_model import SharedModel
from medfl.site.site import Site

PER_SITE = 8
ALL_SITES = 160
"""Patches a gallery may hold over all sites, and again as many mistakes: the page stays under 5 MB."""
SIDE = 112
ALIKE = 0.9
"""Two patches whose small grey pictures correlate more than this, turned or mirrored, are shown as one."""


LEAD = (
    "Pictures from this machine, never part of what is logged. Mistakes are test patches, the surest error first. "
    "Of a source group, and of patches that look alike, one is shown."
)
NO_MODEL = "This run keeps one model a site and no final one, so there are no mistakes to show."
PATCHES = "This page shows patches: it belongs to the machine that holds them. The page without them can be passed on."


def with_patches(evidence: Evidence) -> Extras:
    """What `medfl report --with-patches` adds to a page. Raises MedflError as `gallery`, and for sites elsewhere."""
    engine = evidence.summary.get("engine") or IN_PROCESS
    check_unpurged(evidence.run.folder, "there are no patches to show")
    if engine != IN_PROCESS:
        raise MedflError(
            f"{evidence.run.folder} ran on the {engine} engine, so its patches are at the sites and not here; leave "
            "--with-patches out, or run it at a site"
        )
    return Extras(tuple(gallery(evidence)), PATCHES, "with-patches")


def gallery(evidence: Evidence) -> list[PageSection]:
    """The section of patches, and of slides where these are slides', from the data of the run as it is on this machine
    now.

    Raises:
        MedflError: the data is not here, is no longer what the run used, or are features, of which there is no picture.
    """
    folder = RunFolder(evidence.run.folder)
    pipeline = load_pipeline(folder.pipeline)
    shares = {share.site: share for share in make_partition(pipeline).sites if share.site in evidence.roles}
    if any(isinstance(share.catalog.source, FeatureFolders) for share in shares.values()):
        raise MedflError(
            f"{folder.path} was trained on features, of which there are no pictures; leave --with-patches out"
        )
    try:  # pictures of other data would stand beside this run's figures
        check_data(folder, Partition(tuple(shares.values())), pipeline.cache_dir)
    except MedflError as error:
        raise MedflError(f"{error}, or leave --with-patches out") from None
    return _Gallery(evidence, folder, pipeline, shares).sections()


@dataclass(frozen=True)
class _Gallery:
    """The data of a run's sites, and what its model says of them."""

    evidence: Evidence
    folder: RunFolder
    pipeline: config.Pipeline
    shares: Mapping[str, SitePartition]

    @cached_property
    def sites(self) -> dict[str, config.SiteConfig]:
        return {site.name: site for site in self.pipeline.all_sites if site.name in self.evidence.roles}

    @cached_property
    def stores(self) -> dict[str, SiteStore]:
        """Each site's patches in the model's stain, or its bags."""
        facts = self.folder.model_json
        reference = model_stain(read_model_facts(facts)) if facts.is_file() else ()
        made, stores = SiteStores(self.pipeline), dict[str, SiteStore]()
        for name, site in self.sites.items():
            store = made.of(site, self.shares[name])
            stores[name] = store if isinstance(store, BagStore) else in_stain(store, reference)
        return stores

    @cached_property
    def count(self) -> int:
        """Pictures of a site."""
        return max(1, min(PER_SITE, ALL_SITES // len(self.sites)))

    @cached_property
    def shared(self) -> SharedModel:
        return build_shared_model(as_saved(self.pipeline))

    @cached_property
    def own_models(self) -> dict[str, tuple[Site, Tensor, Tensor]]:
        """The sites, and the model that counts at each; none where the run has no global model."""
        if not self.folder.model.is_file():
            return {}
        pipeline = as_saved(self.pipeline)
        built = {
            name: build_site(pipeline, self.sites[name], store, self.shared) for name, store in self.stores.items()
        }
        loaded = self.folder.load_checkpoint(built)  # normalisation that sites keep to themselves
        accepted = loaded[0].accepted if loaded else {}
        weights, buffers = self.shared.model.from_state_dict(load_weights(self.folder.model))
        for name, site in built.items():
            site.restore(site.memory().promoted(accepted.get(name, -1)))
        return {name: (site, *site.own_model(weights, buffers)) for name, site in built.items()}

    @cached_property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Site -> calibrated probabilities [n, C] of its test patches or bags."""
        calibration = Calibration.of(self.evidence.summary)
        return {
            name: probabilities(site.evaluator.logits(weights, buffers, "test"), calibration)
            for name, (site, weights, buffers) in self.own_models.items()
        }

    def sections(self) -> list[PageSection]:
        """Patches, then slides."""
        made = [self._slides()] if all(isinstance(s.catalog.source, WholeSlides) for s in self.shares.values()) else []
        return [section for section in (self._patches(), *made) if section is not None]

    def _patches(self) -> PageSection | None:
        """Some patches of every site, and its mistakes; absent where sites hold bags."""
        evidence, blocks = self.evidence, list[Markup]()
        for name, store in self.stores.items():
            if isinstance(store, BagStore):
                return None
            split, data = ("train", "training") if evidence.roles[name] == "train" else ("test", "test")
            names = store.names if evidence.site else None  # a site knows its files; nobody else should
            rows = _mixed(store, store.splits[split], self.count)
            shown = [
                PatchPicture(
                    _picture(store, row), evidence.classes[store.labels[row]], name=names[row] if names else ""
                )
                for row in rows
            ]
            blocks += [heading(name), text(f"From its {data} data, as the model sees it:"), patches(shown)]
            if name in self.scores:
                blocks.append(_mistakes(evidence, store, self.scores[name], self.count, names))
        if not self.scores:
            blocks.append(text(NO_MODEL))
        return PageSection("patches", "Patches", join(*blocks), LEAD)

    def _slides(self) -> PageSection | None:
        """Some test slides of every site with what the model says of their tiles; absent without a global model."""
        if not self.own_models:
            return None
        model, blocks = find_model(str(self.folder.path)), list[Markup]()
        for name, (_, weights, buffers) in self.own_models.items():
            share = self.shares[name]
            source = cast(WholeSlides, share.catalog.source)
            own = SlideScores.of(share, self.stores[name], self.scores[name], model.facts)
            look = render_settings(self.pipeline, self.sites[name], by_scale=True)
            self.shared.model.load(weights, buffers)
            site = bool(self.evidence.site)
            blocks += [heading(name), *slide_blocks(model, source, look, self.shared, own, self.count, site)]
        return slide_section(model, blocks)


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
    return embedded(np.asarray(store.images[row]), SIDE)
