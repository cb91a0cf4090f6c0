"""A trained model as a run, a folder or a registry has it, ready to be used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from medfl import config
from medfl.config.resolved import read_resolved
from medfl.data.normalise import NoStain, serving_stain
from medfl.data.patch_store import U8
from medfl.errors import MedflError
from medfl.methods.core.chain import MethodChain
from medfl.metrics.logit_calibration import Calibration
from medfl.model import allocator
from medfl.model.backbone import ModelSpec
from medfl.model.bag_network import is_bag_network
from medfl.model.flat_model import FlatModel
from medfl.model.lora import Lora
from medfl.model.trained_part import trained_part
from medfl.model.weights_file import InputSpec
from medfl.pipeline.build_site import resolve_device
from medfl.runs.digests import check_files, check_weights
from medfl.runs.folder import RunFolder
from medfl.runs.model_facts import model_rendering, model_stain, read_model_facts
from medfl.runs.records import MODEL, WEIGHTS, read_json
from medfl.runs.tensor_files import load_weights
from medfl.site.shared_model import SharedModel
from medfl.tracking.download import fetch_model, is_reference


@dataclass(frozen=True)
class TrainedModel:
    """A trained model on this machine: the folder of its two files, its facts, and the run it came from, if known.
    `card` is the model card that came with it from MLflow, `network` the one that a program hands over to be loaded."""

    directory: Path
    facts: dict[str, Any]
    run: RunFolder | None
    run_id: str | None = None
    card: Path | None = None
    network: Any = None

    @property
    def calibration(self) -> Calibration:
        """What its logits go through before softmax."""
        return Calibration.of(self.facts)

    @cached_property
    def render(self) -> list[Any]:
        """The transforms that its patches go through before it sees them: `data.render` of its run."""
        plan = read_resolved(self.run.pipeline) if self.run and "render" not in self.facts else None
        return model_rendering(self.facts, plan)

    def seen(self, patches: U8) -> U8:
        """Patches u8[N, S, S, 3] of its size, of one laboratory, as the run's `data.render` leaves them, and normalised
        where the run's were. Raises MedflError where they have no stain."""
        if self.render:
            from medfl.data.transforms import serving

            patches = serving(self.render)(patches)
        if self.stain_reference:
            try:
                patches = serving_stain(self.stain_reference)(patches)
            except NoStain as reason:
                raise MedflError(
                    f"{self.directory}: the stain of these patches cannot be normalised: {reason}"
                ) from None
        return patches

    @property
    def stain_reference(self) -> list[float]:
        """Numbers of the stain that its patches are brought to (`medfl.data.normalise`); none where they stay."""
        return model_stain(self.facts)

    @property
    def reads_bags(self) -> bool:
        """Whether it reads bags of features, and no images."""
        return is_bag_network(self.facts["backbone"])

    def load(self, device: str = "auto") -> tuple[SharedModel, Tensor, Tensor]:
        """A workbench for this architecture, and the model's weights f32[P] and buffers f32[B] in wire order.

        Raises:
            MedflError: weights that do not fit the architecture named in model.json.
        """
        facts = self.facts
        given = InputSpec.of(facts, str(self.directory / "model.json"))
        train = trained_part(facts.get("train", "all"))
        spec = ModelSpec(
            facts["backbone"],
            tuple(facts["classes"]),
            dict(facts["args"]),
            input=given,
            train="all" if isinstance(train, Lora) else train,  # what was adapted has been merged
            pooling=facts.get("pooling"),
            hidden=facts.get("hidden"),
            network=self.network,
        )
        trained, timm = facts["fingerprint"], facts.get("versions", {}).get("timm", "(not stated)")
        check_weights(facts, self.directory)
        allocator.keep_freed()
        bench = SharedModel(FlatModel(spec, resolve_device(device)), MethodChain())
        state = load_weights(self.directory / "model.safetensors")
        bench.model.load_frozen(state)
        if bench.model.fingerprint() != trained:
            raise MedflError(
                f"{self.directory / 'model.json'}: the architecture of {facts['backbone']} is not the one trained "
                f"(timm {timm} then); install that version"
            )
        weights, buffers = bench.model.from_state_dict(state)
        return bench, weights, buffers

    def ready(self, device: str = "auto") -> SharedModel:
        """The workbench with the model's weights in its network. Raises MedflError as `load`."""
        bench, weights, buffers = self.load(device)
        bench.model.load(weights, buffers)
        return bench


def find_model(reference: str, tracking: config.Tracking | None = None, runs: Path = Path("runs")) -> TrainedModel:
    """A model by run folder, folder of a model alone, MLflow run id, or `models:/name@alias`.

    Raises:
        MedflError: no such run or model.
    """
    path = Path(reference)
    if (path / MODEL).is_file() and (path / WEIGHTS).is_file() and not RunFolder(path).pipeline.is_file():
        return TrainedModel(path, read_model_facts(path / MODEL), None)
    if path.is_dir() or not is_reference(reference):
        folder = RunFolder.open(path)
        if folder.summary.is_file() and not folder.model_json.is_file():
            raise MedflError(
                f"{path} trained one model a site, so it has no global model; its figures are in {folder.summary}"
            )
        if not folder.model_json.is_file():
            raise MedflError(f"{path} holds no finished model yet; finish the run with `medfl resume {path}`")
        check_files(read_json(folder.summary) if folder.summary.is_file() else {}, folder.path)
        return TrainedModel(folder.path, read_model_facts(folder.model_json), folder)
    fetched = fetch_model(reference, tracking or config.Tracking())
    facts = read_model_facts(fetched.directory / "model.json")
    name = Path(fetched.run or "").name  # a tag, which anyone at the server can set: never a path
    local = runs / name
    run = RunFolder(local) if name and (local / "pipeline.yaml").is_file() else None
    return TrainedModel(fetched.directory, facts, run, fetched.run_id, fetched.card)
