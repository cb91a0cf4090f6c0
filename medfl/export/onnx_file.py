"""A model as one ONNX file: whole grey levels, or the features of a slide, in; calibrated probabilities out."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfl.errors import MedflError, install_extra
from medfl.export.exported_model import ExportedModel, version
from medfl.export.onnx_graphs import graph_of
from medfl.runs.model_facts import transform_names

OPSET = 18
TOLERANCE = 1e-4
MAX_BYTES = 2**31 - 2**20
"""A protobuf file holds 2 GiB; what is not weights takes far less than a MiB."""
REMEDY = f"install medfl's extra with {install_extra('onnx')}"


def write_onnx(source: ExportedModel, path: Path) -> str:
    """Write the file, with its facts as metadata inside and as JSON beside it; check it, and compare it with medfl.

    Returns:
        What the comparison came to, for people.

    Raises:
        MedflError: a package is missing, patches go through transforms first, the model is too large or uses what
            ONNX has no operator for, or its probabilities differ from those of medfl by more than 1e-4.
    """
    require_packages()
    if source.render:
        names = ", ".join(transform_names(source.render))
        raise MedflError(
            f"patches of {source.facts['run']} go through `data.render` ({names}) first, which an ONNX graph does not "
            f"hold, so it would see others than the model was trained on; export it with --format monai-bundle"
        )
    bytes_ = 4 * sum(tensor.numel() for tensor in source.net.state_dict().values())
    if bytes_ > MAX_BYTES:
        raise MedflError(
            f"{source.facts['backbone']} has {bytes_ / 2**30:.1f} GiB of weights and an ONNX file holds 2 GiB; "
            f"export it with --format monai-bundle"
        )
    import onnx

    description = facts(source)
    model = _graph(source)
    onnx.helper.set_model_props(model, {name: _text(value) for name, value in description.items()})
    model.producer_name, model.producer_version = "medfl", version("medfl")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    path.with_suffix(".json").write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return compare(source, path)


def require_packages() -> None:
    """Raise MedflError if a package that writes ONNX is missing."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise MedflError(f"--format onnx needs {' and '.join(missing)}, which {_is(missing)} not installed; {REMEDY}")


def facts(source: ExportedModel) -> dict[str, Any]:
    """What a program that feeds the file must know: the JSON beside it."""
    own = source.facts
    return {
        "run": own["run"],
        "backbone": own["backbone"],
        "fingerprint": own["fingerprint"],
        "classes": source.classes,
        **graph_of(source).facts(),
        "mpp": own.get("mpp"),
        "thresholds": own.get("thresholds"),
        "malignant": own.get("malignant"),
        "kept_at_sites": own.get("kept_at_sites"),
        "versions": {name: version(name) for name in ("medfl", "torch", "timm", "onnx", "onnxscript")},
        "caution": "Research software. Not a medical device; not for diagnosis or treatment.",
    }


def compare(source: ExportedModel, path: Path) -> str:
    """The largest difference to `medfl predict` through onnxruntime, on generated tissue or drawn features, of several
    patches or tiles and of one.

    Raises:
        MedflError: it is above 1e-4.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return f"Not compared with medfl, since onnxruntime is not installed; {REMEDY}"
    import onnxruntime

    graph = graph_of(source)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for given, ours in graph.answers():
        theirs = session.run(list(graph.outputs), {graph.input: given})
        differences += [np.abs(own - other).max() for own, other in zip(ours, theirs, strict=True)]
    difference = float(np.max(differences))
    if not difference <= TOLERANCE:
        raise MedflError(
            f"the ONNX file of {source.facts['backbone']} gives other probabilities than medfl (by {difference:.2g}), "
            f"so it is not kept; {_otherwise(source)}"
        )
    return f"Compared with medfl through onnxruntime: probabilities within {difference:.1g}"


def _graph(source: ExportedModel) -> Any:
    """The ModelProto. Raises MedflError where the exporter has no way to say what the network does."""
    graph = graph_of(source)
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (graph.example(),),
                input_names=[graph.input],
                output_names=list(graph.outputs),
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim(graph.axis)},),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        reason = str(error).strip().splitlines()
        raise MedflError(
            f"{source.facts['backbone']} cannot be written as ONNX ({reason[0] if reason else type(error).__name__}); "
            f"{_otherwise(source)}"
        ) from None
    assert program is not None
    model = program.model_proto
    for part in (model.graph, *model.functions):
        _forget_paths(part)
    return model


def _otherwise(source: ExportedModel) -> str:
    """What else can be done with a model."""
    return "use it with `medfl predict`" if source.model.reads_bags else "export it with --format monai-bundle"


def _forget_paths(part: Any) -> None:
    """Drop the notes of a graph or function: the exporter writes at every node where its code lies on this machine."""
    for item in (part, *part.node, *part.value_info, *getattr(part, "initializer", ())):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    for node in part.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _forget_paths(inner)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress and the warnings of its own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"
