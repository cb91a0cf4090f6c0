"""What a bundle says of itself: `configs/metadata.json` after MONAI's schema, and `docs/README.md`."""

from __future__ import annotations

from typing import Any

from medfl.data.transforms import packages
from medfl.export.exported_model import ExportedModel, version
from medfl.plain_text import markdown
from medfl.runs.model_facts import stored_as, transform_names

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
CAUTION = "Research software. Not a medical device; not for diagnosis or treatment."
MODEL_FACTS = (
    "backbone",
    "pooling",
    "hidden",
    "classes",
    "size",
    "mpp",
    "render",
    "mean",
    "std",
    "temperature",
    "calibration",
    "thresholds",
    "malignant",
    "fingerprint",
)


def metadata(source: ExportedModel) -> dict[str, Any]:
    """configs/metadata.json, with every field that MONAI's schema of 2024-07-25 requires."""
    facts, size = source.facts, source.size
    # The range of a normalised patch: black and white through every channel.
    ends = [(level - m) / s for m, s in zip(facts["mean"], facts["std"], strict=True) for level in (0, 1)]
    by_number = {str(number): name for number, name in enumerate(source.classes)}
    scores = {"type": "probabilities", "format": "classes", "num_channels": len(by_number), "spatial_shape": []}
    scores |= {"dtype": "float32", "is_patch_data": False, "channel_def": by_number}
    image = {
        "type": "image",
        "format": "RGB",
        "modality": "histopathology",
        "num_channels": 3,
        "spatial_shape": [size, size],
        "dtype": "float32",
        "value_range": [min(ends), max(ends)],
        "is_patch_data": False,
        "channel_def": {"0": "red", "1": "green", "2": "blue"},
    }
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"Exported by medfl {version('medfl')} from the run {facts['run']}"},
        "name": f"medfl run {facts['run']}",
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in required_packages(source)},
        "task": "Classification of histopathology patches",
        "description": f"Federated {facts['backbone']} for patches of {size} x {size} pixels, {_resolution(source)}",
        "authors": "Those who carried out the run; the workflow is medfl's",
        "copyright": "Weights: those who trained them. Scripts: the medfl authors, Apache-2.0",
        "image_classes": f"RGB patches, resized to {size} x {size} and normalised by channel",
        "pred_classes": f"Probabilities of {', '.join(source.classes)}, calibrated by {source.calibration_words}",
        "eval_metrics": _figures(source),
        "intended_use": CAUTION,
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": scores | {"type": "logits", "value_range": []}},
            "post_processed_outputs": {"pred": scores | {"value_range": [0, 1]}},
        },
        "medfl": {name: facts.get(name) for name in MODEL_FACTS},
    }


def required_packages(source: ExportedModel) -> list[str]:
    """What the bundle needs beside MONAI, PyTorch and NumPy."""
    return ["timm", "pillow", *(name for name in packages(source.render) if name != "monai")]


def _resolution(source: ExportedModel) -> str:
    mpp = source.facts.get("mpp")
    resolution = f"{mpp:g} microns per pixel" if mpp else "microns per pixel unknown"
    return resolution + stored_as(source.facts)


def _figures(source: ExportedModel) -> dict[str, float]:
    """Test figures of the run's held-out sites, where the run is on this machine."""
    figures = source.summary.get("held_out") or {}
    names = ("mean_auroc", "worst_auroc", "mean_ece", "worst_ece")
    return {f"held_out_{name}": figures[name] for name in names if isinstance(figures.get(name), int | float)}


README = """\
# {title}

A MONAI Bundle exported by medfl {medfl}. {caution}

## Use

With monai {monai}, torch {torch}, {packages} installed, from this folder:

```sh
pip install fire
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_file probabilities.csv
```

or from Python, anywhere:

```python
from monai.bundle import run
run(config_file="BUNDLE/configs/inference.json", bundle_root="BUNDLE", dataset_dir="IMAGES", output_file="out.csv")
```

`IMAGES` is a folder of patches; the CSV has one row an image, `file` and `p_<class>` for every class.
`monai.bundle.load(name="BUNDLE", bundle_dir="FOLDER OF BUNDLE", source="github", workflow_type="inference")` returns
the network alone{path}.
Its outputs are logits; the workflow calibrates them by {calibration} before softmax.

A bundle's configuration and its `scripts/` are code: use only bundles of people you trust. `models/model.pt` holds
tensors and nothing else, and is read as weights only.

## What goes in

8-bit RGB patches of {size} x {size} pixels, {resolution}. Others are converted as in training: upright by EXIF,
transparency over white, 16-bit grey scaled to 8 bits, resized by area, rounded to whole grey levels{rendered}.

Classes, in the order of the outputs: {classes}.
{at_sites}
## Licence

The scripts are part of medfl and under the Apache License 2.0. The bundle grants no licence to the weights; those who
trained them may state one here. {start}

## Model card

As in a registry of MLflow; what it says of input and output is of the model served there.

{card}
"""


def readme(source: ExportedModel) -> str:
    """docs/README.md: how to run the bundle, its licence notes, and the model card."""
    at_sites = source.kept_at_sites()
    needed = [f"{name} {version(name)}" for name in required_packages(source)]
    names = ", ".join(map(markdown, transform_names(source.render)))
    lines = source.card.strip().splitlines()
    # The card's headings go one level down, under the README's own.
    card = "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)
    text = README.format(
        title=source.facts["run"],
        medfl=version("medfl"),
        monai=version("monai"),
        torch=version("torch"),
        packages=" and ".join((", ".join(needed[:-1]), needed[-1])),
        rendered=f", then transformed as in the run: {names}" if names else "",
        caution=CAUTION,
        calibration=markdown(source.calibration_words),
        path=", where the bundle's folder is on `sys.path`" if source.shaped else "",
        size=source.size,
        resolution=_resolution(source),
        classes=", ".join(map(markdown, source.classes)),
        at_sites=f"\n{at_sites}\n" if at_sites else "",
        start=source.began_from,
        card=card or "The run is not on the machine that exported it, so its card is not here.",
    )
    return text.replace(" \n", "\n")
