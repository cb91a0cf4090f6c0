"""A trained model measured at sites: those of its run, or any other site file. Scores never leave the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medfl import config
from medfl.config.program_parts import PROGRAM
from medfl.data.bag_store import BagStore, SiteStore
from medfl.data.batches import at_once
from medfl.data.partition import SitePartition, make_partition, own_partition
from medfl.data.patch_store import U8
from medfl.data.render import read_patches, warn_of_resolution
from medfl.data.stained_store import in_stain
from medfl.errors import MedflError
from medfl.messages import MeasureRequest
from medfl.metrics.group_figures import group_figures
from medfl.pipeline.adapt_model import adapt_request, check_sees_images
from medfl.pipeline.adapt_sites import adaptation_facts, adapted_result
from medfl.pipeline.build_site import build_site
from medfl.pipeline.final_evaluation import Measured
from medfl.pipeline.load_pipeline import load_pipeline, load_site
from medfl.pipeline.prediction_tables import write_predictions
from medfl.pipeline.site_stores import SiteStores
from medfl.pipeline.slide_scores import check_encoder, score_folder
from medfl.pipeline.summary import pooled_figures
from medfl.pipeline.trained_model import TrainedModel
from medfl.runs.model_facts import unit_top
from medfl.site.evaluator import SiteDiverged
from medfl.site.measurement import probabilities
from medfl.site.shared_model import SharedModel


def measure_model(
    model: TrainedModel,
    shares: Sequence[tuple[config.Pipeline, config.SiteConfig, SitePartition]],
    resamples: int | None = None,
    predictions: Path | None = None,
    adapt: config.Adapt | None = None,
) -> Measured:
    """Test figures with intervals at each site: those of the calibrated model, as at the end of its run.

    Args:
        model: what to measure.
        shares: per site the pipeline that says how its data is rendered, the site, and its data.
        resamples: bootstrap resamples; None takes the pipeline's.
        predictions: where each site writes its tables (`medfl.pipeline.prediction_tables`), which stay there.
        adapt: a remedy, whose figures stand beside the others at sites that never trained.
    """
    if adapt:
        check_sees_images(model.reads_bags)
    bench, weights, buffers = model.load()
    measured, facts = Measured(), model.facts
    if shares:
        warn_of_resolution(shares[0][0], [site for _, site, _ in shares])
    for pipeline, site, share in shares:
        if list(pipeline.task.classes) != list(model.facts["classes"]):
            raise MedflError(
                f"`task.classes` of {pipeline.name} ({', '.join(pipeline.task.classes)}) are not the model's "
                f"({', '.join(model.facts['classes'])})"
            )
        as_trained = {"size": model.facts["size"], "render": model.render}
        pipeline = pipeline.model_copy(update={"data": pipeline.data.model_copy(update=as_trained)})
        store = as_the_model_sees(model, SiteStores(pipeline).of(site, share))
        role = site.role or "held_out"
        here = build_site(pipeline, site.model_copy(update={"role": role}), store, bench)
        wanted = pipeline.evaluation.resamples if resamples is None else resamples
        request = MeasureRequest(
            round=0,
            weights=weights,
            buffers=buffers,
            splits=("test",),
            resamples=wanted,
            temperature=model.calibration.temperature,
            scale=model.calibration.scale,
            bias=model.calibration.bias,
            thresholds=facts.get("thresholds"),
            malignant=tuple(facts.get("malignant") or ()),
            top=unit_top(facts),
            unit_thresholds=facts.get("unit_thresholds") or {},
        )
        try:
            measured.add(here.handle(request), role)
            if adapt and role == "held_out":
                asked = adapt_request(facts, adapt, bench, (weights, buffers), wanted)
                measured.sites[site.name]["adapted"] = adapted_result(here.handle(asked).metrics, asked.remedies[0])
        except SiteDiverged as error:
            raise MedflError(f"{model.directory}: at site {site.name}, {error}") from None
        if predictions is not None:
            scores = probabilities(here.evaluator.logits(weights, buffers, "test"), model.calibration)
            write_predictions(predictions, store, scores, facts)
    return measured


def as_the_model_sees(model: TrainedModel, store: SiteStore) -> SiteStore:
    """A site's patches in the model's stain, or its bags where they are of the model's encoder."""
    if isinstance(store, BagStore):
        check_encoder(model.facts, store.origin.encoder, f"site {store.site}")
        return store
    return in_stain(store, model.stain_reference)


def pipeline_of(
    model: TrainedModel, plan: Path | str | Mapping[str, Any] | None, option: str = "--pipeline"
) -> config.Pipeline:
    """How sites are dealt and rendered: as the plan under `option` has it, or the model's run. Raises MedflError."""
    if plan is not None:
        return load_pipeline(plan)
    if model.run is None:
        raise MedflError(f"the run of this model is not on this machine; say with {option} how its sites are dealt")
    return load_pipeline(model.run.pipeline)


def sites_to_measure(
    model: TrainedModel, site_files: Sequence[str | config.SiteConfig], pipeline_file: str | config.Pipeline | None
) -> list[tuple[config.Pipeline, config.SiteConfig, SitePartition]]:
    """The sites to measure: those named, or the held-out sites of the model's run.

    A named site that belongs to the run is measured on its test split there; any other brings its own data, all of
    which is test data.

    Raises:
        MedflError: no pipeline is known for the model, a site has no data, there is nothing to measure.
    """
    pipeline = pipeline_file if isinstance(pipeline_file, config.Pipeline) else pipeline_of(model, pipeline_file)
    sites = {site.name: site for site in pipeline.all_sites}
    named = [load_site(site) if isinstance(site, str) else site for site in site_files] or pipeline.held_out_sites
    if not named:
        raise MedflError("the pipeline has no held-out sites; name site files with --sites")
    dealt = (
        {share.site: share for share in make_partition(pipeline).sites} if any(s.name in sites for s in named) else {}
    )
    triples = []
    for site in named:
        if site.name in sites and (site.data is None or sites[site.name].data == site.data):
            triples.append((pipeline, sites[site.name], dealt[site.name]))
            continue
        if site.data is None or not (site.data.root or pipeline.data.root or site.data.source == PROGRAM):
            raise MedflError(
                f"site {site.name} was not part of the run and has no `data.root`; add its own data to its site file"
            )
        alone = site.model_copy(update={"role": "held_out", "patches": None})
        triples.append((pipeline, alone, own_partition(pipeline, alone, "held_out")))
    return triples


def evaluate(
    model: TrainedModel,
    site_files: Sequence[str | config.SiteConfig] = (),
    pipeline_file: str | config.Pipeline | None = None,
    predictions: Path | None = None,
    adapt: config.Adapt | None = None,
) -> dict[str, Any]:
    """`medfl evaluate`: its keys mean what they mean in summary.json."""
    triples = sites_to_measure(model, site_files, pipeline_file)
    measured = measure_model(model, triples, predictions=predictions, adapt=adapt)
    sites = measured.sites
    return {
        "run": model.facts["run"],
        "fingerprint": model.facts["fingerprint"],
        "temperature": model.facts.get("temperature"),
        "calibration": model.calibration.vector,
        "source": _source_of(triples),
        "sites": sites,
        "held_out": group_figures(sites, "held_out"),
        "train_sites": group_figures(sites, "train"),
        "pooled": pooled_figures(
            sites, measured.sums, model.facts["classes"], tuple(model.facts.get("malignant") or ())
        ),
        **({"adaptation": adaptation_facts(model.facts, adapt, sites)} if adapt else {}),
    }


def _source_of(triples: Sequence[tuple[config.Pipeline, config.SiteConfig, SitePartition]]) -> str:
    """The kind of source of the sites, "" where they differ."""
    kinds = {share.catalog.source.kind for _, _, share in triples}
    return kinds.pop() if len(kinds) == 1 else ""


def predict(
    model: TrainedModel, directory: Path, batch_size: int = 64, attention: Path | None = None
) -> list[tuple[str, list[float]]]:
    """Calibrated class probabilities for every image under a folder, or for every slide of a folder of features where
    the model reads these, in sorted order: [(relative name, or slide; p per class)].

    Args:
        model: what predicts.
        directory: the folder.
        batch_size: images at a time.
        attention: where the weights of a slide's tiles are written, see `score_folder`.

    Raises:
        MedflError: no folder, no images or features, an unreadable one, attention asked of a model that sees images.
    """
    if model.reads_bags:
        return score_folder(model.ready(), model.facts, directory, attention)
    if attention is not None:
        raise MedflError("--attention is for models over bags of features (`model.mil`), and this one sees images")
    names, patches = read_patches(directory, model.facts["size"])
    return list(zip(names, scores(model, patches, batch_size).tolist(), strict=True))


def scores(
    model: TrainedModel, patches: U8, batch_size: int = 64, device: str = "auto", loaded: SharedModel | None = None
) -> NDArray[np.float64]:
    """Calibrated class probabilities f64[N, C] of patches u8[N, S, S, 3] of the model's size, which go through the
    run's `data.render` first, and are then normalised as those of one laboratory where the run's were; `loaded` is its
    workbench with the weights in it, where that is there already. Raises MedflError where they have no stain."""
    patches = model.seen(patches)
    bench = loaded or model.ready(device)
    bench.net.eval()
    mean = torch.tensor(model.facts["mean"]).view(3, 1, 1)
    std = torch.tensor(model.facts["std"]).view(3, 1, 1)
    rows: list[NDArray[np.float64]] = []
    most = at_once(batch_size, patches.shape[1], bench.model.device)
    with torch.inference_mode():
        for begin in range(0, len(patches), most):
            images = torch.from_numpy(patches[begin : begin + most]).permute(0, 3, 1, 2).float() / 255
            logits = bench.net(((images - mean) / std).to(bench.model.device)).float()
            rows.append(probabilities(logits.cpu().double(), model.calibration))
    return np.concatenate(rows)
