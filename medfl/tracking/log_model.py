"""A finished run's model in MLflow: code, safetensors and JSON, loadable anywhere, naming no path.

It is saved locally, cleared of the paths MLflow writes into `MLmodel`, and uploaded through the client, so that no
global state of MLflow (active run, tracking URI) is touched.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from medfl.config.program_parts import is_program
from medfl.errors import MedflError
from medfl.runs.model_facts import model_rendering
from medfl.runs.records import CARD, MODEL, WEIGHTS, RunRecords, read_json
from medfl.runs.redact import LOCAL, scrub
from medfl.tracking.model_card import model_card
from medfl.tracking.sync_state import State, TrackingServer

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

REQUIREMENTS = ("mlflow", "torch", "torchvision", "timm", "safetensors", "numpy", "pandas")
EXAMPLE_SIZE = 64
UUID_TAG = "medfl.run_uuid"


def log_model(client: MlflowClient, run: RunRecords, state: State, server: TrackingServer) -> None:
    """Log the model of a finished run and link it to the federation's run; fills `server.model_id`.

    Raises:
        MedflError: the backbone is a local folder, which exists nowhere else.
    """
    from mlflow.entities import LoggedModelOutput

    facts = read_json(run.folder / MODEL)
    settings = portable({**facts, "render": model_rendering(facts, run.pipeline)}, run.folder / MODEL)
    summary: Mapping[str, Any] = run.summary or {}
    if not server.model_id:
        server.model_id = _begun(client, server, state) or _begin(client, run, server, state)
        state.save()
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_model(run, settings, Path(temporary), server.model_id, server.federation.run_id)
        client.log_model_artifacts(server.model_id, str(folder))
    client.finalize_logged_model(server.model_id, "READY")
    outputs = client.get_run(server.federation.run_id).outputs
    if server.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        step = int(summary["selected_round"])
        client.log_outputs(server.federation.run_id, [LoggedModelOutput(server.model_id, step=step)])
    server.model_ready = True


def portable(facts: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """A model.json that may leave this machine: without local paths.

    Raises:
        MedflError: the backbone is a local folder or a network of a program, which exist nowhere else.
    """
    settings: dict[str, Any] = scrub(facts)
    if is_program(str(settings["backbone"])):
        raise MedflError(
            f"{source}: the network {settings['backbone']} is one that a program handed over, so nobody else could "
            f"build it; give it a name of timm's (`timm.models.register_model`) and train that"
        )
    if LOCAL in str(settings["backbone"]):
        raise MedflError(f"{source}: the backbone is a local folder, so no other machine could build it")
    return settings


def _begun(client: MlflowClient, server: TrackingServer, state: State) -> str | None:
    """The model of this run that an earlier attempt began, if any."""
    models = client.search_logged_models([server.experiment_id], f"tags.`{UUID_TAG}` = '{state.run_uuid}'")
    return next((m.model_id for m in models if m.source_run_id == server.federation.run_id), None)


def _begin(client: MlflowClient, run: RunRecords, server: TrackingServer, state: State) -> str:
    tags = {UUID_TAG: state.run_uuid, "medfl.run": run.name, "method": run.method}
    model = client.create_logged_model(
        server.experiment_id, name="model", source_run_id=server.federation.run_id, tags=tags
    )
    return str(model.model_id)


def save_model(run: RunRecords, settings: dict[str, Any], temporary: Path, model_id: str, run_id: str) -> Path:
    """Write the MLflow model folder under `temporary` and return it."""
    import mlflow

    from medfl.model import bag_network, timm_network

    bags = bag_network.is_bag_network(settings["backbone"])
    config = temporary / MODEL
    config.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    folder, code = temporary / "model", _rendering_code(temporary) if settings.get("render") else None
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(Path(__file__).with_name("bag_pyfunc_model.py" if bags else "pyfunc_model.py")),
        artifacts={
            "weights": str(run.folder.resolve() / WEIGHTS),
            "config": str(config),
            "network": str(Path(bag_network.__file__) if bags else Path(timm_network.__file__)),
        },
        signature=_signature(settings["classes"], settings["args"]["dim"] if bags else None),
        input_example=np.zeros((2, settings["args"]["dim"]), np.float32)
        if bags
        else input_example(settings["classes"]),
        code_paths=code,
        pip_requirements=requirements(settings.get("render") or ()),
        metadata={"medfl.run": run.name, "fingerprint": settings.get("fingerprint"), "mpp": settings.get("mpp")},
        mlflow_model=mlflow.models.Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
    )
    _forget_paths(folder / "MLmodel")
    card = model_card(run.summary or {}, settings, run.pipeline, run.data)
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder


def requirements(render: Sequence[Any] = ()) -> list[str]:
    """Exact versions of what `pyfunc_model.py` and the transforms of `render` import, without build labels (`+cu132`),
    which no other machine may have."""
    from medfl.data.transforms import packages

    names = (*REQUIREMENTS, *packages(render))
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def _rendering_code(temporary: Path) -> list[str]:
    """The package that draws patches as the run's `data.render` asks, for MLflow to carry along."""
    from medfl.data.carried_code import RENDERING, carried

    package = temporary / "served_rendering"
    package.mkdir()
    for name, text in {"__init__.py": "", **carried(RENDERING, package.name)}.items():
        (package / name).write_text(text, encoding="utf-8")
    return [str(package)]


def input_example(classes: Sequence[str]) -> np.ndarray[Any, Any]:
    """One patch of generated tissue, u8[1, S, S, 3]."""
    from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies

    label = next((name for name in classes if name in TISSUE_CLASSES), TISSUE_CLASSES[0])
    return np.asarray(draw_copies(label, 0, 0, EXAMPLE_SIZE, 1))


def _signature(classes: Sequence[str], dim: int | None) -> Any:
    """Patches, or one slide's feature vectors of `dim` numbers, in; a column for each class out."""
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    patches = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    given = patches if dim is None else TensorSpec(np.dtype(np.float32), (-1, dim))
    return ModelSignature(inputs=Schema([given]), outputs=Schema([ColSpec("double", name) for name in classes]))


def _forget_paths(mlmodel: Path) -> None:
    """Keep the names of the model's files and drop where they came from; loading needs only the names."""
    content = yaml.safe_load(mlmodel.read_text(encoding="utf-8"))
    flavor = content["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    content.pop("artifact_path", None)
    mlmodel.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
