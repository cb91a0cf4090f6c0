"""A timm backbone over one flat parameter vector.

Trainable parameters are views into one contiguous float32 buffer, the *native* vector: every parameter starts at a
multiple of 64 bytes, the padding between them is zero and stays zero, and with `channels_last` the four-dimensional
weights are strided views of NHWC storage. Copies, drift, norms, masks and aggregation are then single vector
operations, and no state dict appears in the round loop. Floating-point buffers (BatchNorm statistics) are a second
vector; integer buffers are never averaged. What leaves the process is in *wire order* (`pack`): canonical layout,
no padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medfl.errors import MedflError, nearest

ALIGN = 16  # float32 values in 64 bytes, one cache line
FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}  # timm would read a file of any kind


@dataclass(frozen=True)
class ModelSpec:
    """How to build a backbone: a timm name, the classes, what `timm.create_model` receives, and where it starts."""

    backbone: str
    classes: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    channels_last: bool = False


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies: `offset` in the native vector, `start` in wire order."""

    name: str
    shape: torch.Size
    offset: int
    start: int
    channels_last: bool

    @property
    def numel(self) -> int:
        """Number of values."""
        return self.shape.numel()

    def view(self, vector: Tensor) -> Tensor:
        """This tensor as a view of a native vector [padded]."""
        flat = vector[self.offset : self.offset + self.numel]
        if self.channels_last:
            out, inner, height, width = self.shape
            return flat.view(out, height, width, inner).permute(0, 3, 1, 2)
        return flat.view(self.shape)


@dataclass(frozen=True)
class Layout:
    """The order of tensors in a flat vector: `size` values on the wire, `padded` in the native vector."""

    slots: tuple[Slot, ...]
    size: int
    padded: int

    @staticmethod
    def of(tensors: Mapping[str, Tensor], channels_last: bool, align: int = ALIGN) -> Layout:
        """Lay out tensors in the given order."""
        slots: list[Slot] = []
        offset = start = 0
        for name, tensor in tensors.items():
            slots.append(Slot(name, tensor.shape, offset, start, channels_last and tensor.dim() == 4))
            start += tensor.numel()
            offset += -(-tensor.numel() // align) * align
        return Layout(tuple(slots), start, offset)

    def pack(self, native: Tensor) -> Tensor:
        """Native vector [padded] -> new wire vector f32[size] on the CPU."""
        wire = torch.empty(self.size, dtype=native.dtype)
        for slot in self.slots:
            wire[slot.start : slot.start + slot.numel].view(slot.shape).copy_(slot.view(native))
        return wire

    def unpack(self, wire: Tensor, native: Tensor) -> Tensor:
        """Wire vector f32[size] -> into a native vector [padded], which is returned; its padding is left alone."""
        if wire.numel() != self.size:
            raise ValueError(f"a vector of {wire.numel():,} values does not fit a layout of {self.size:,}")
        for slot in self.slots:
            slot.view(native).copy_(wire[slot.start : slot.start + slot.numel].view(slot.shape))
        return native


class FlatModel:
    """One network for any number of sites: load a vector, train, read the vector back.

    Attributes:
        net: the timm module; its trainable parameters and float buffers are views of the two vectors.
        vector: native f32[padded] of the trainable parameters, on `device`.
        buffer_vector: native f32[...] of the float buffers, on `device`.
        layout, buffer_layout: their layouts.
        mean, std: the backbone's own input normalisation.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, seed: int = 0) -> None:
        from timm.data import resolve_model_data_config

        self.spec = spec
        self.device = device
        self.net = create(spec, seed).to(device)
        config = resolve_model_data_config(self.net)
        self.mean: tuple[float, ...] = tuple(config["mean"])
        self.std: tuple[float, ...] = tuple(config["std"])
        trainable = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        buffers = {name: b for name, b in persistent_buffers(self.net).items() if b.is_floating_point()}
        self.layout = Layout.of(trainable, spec.channels_last)
        # Buffers are small vectors; packed tightly, their native and wire orders are the same.
        self.buffer_layout = Layout.of(buffers, channels_last=False, align=1)
        self.vector = torch.zeros(self.layout.padded, device=device)
        self.buffer_vector = torch.zeros(self.buffer_layout.padded, device=device)
        for slot in self.layout.slots:
            view = slot.view(self.vector)
            view.copy_(trainable[slot.name].data)
            trainable[slot.name].data = view
        owners = {name: _owner(self.net, name) for name in buffers}
        for slot in self.buffer_layout.slots:
            view = slot.view(self.buffer_vector)
            view.copy_(buffers[slot.name])
            module, leaf = owners[slot.name]
            module._buffers[leaf] = view
        self.parameters = list(trainable.values())
        self._fingerprint = ""
        self.check()

    def check(self) -> None:
        """Raise RuntimeError if a parameter or buffer no longer is a view of its vector (after a move or cast)."""
        base = self.vector.data_ptr()
        for slot, parameter in zip(self.layout.slots, self.parameters, strict=True):
            if parameter.data_ptr() != base + 4 * slot.offset:
                raise RuntimeError(f"parameter {slot.name} is detached from the flat vector")
        base = self.buffer_vector.data_ptr()
        current = persistent_buffers(self.net)
        for slot in self.buffer_layout.slots:
            if current[slot.name].data_ptr() != base + 4 * slot.offset:
                raise RuntimeError(f"buffer {slot.name} is detached from the flat vector")

    def load(self, weights: Tensor, buffers: Tensor) -> None:
        """Copy wire vectors f32[P] and f32[B] into the network."""
        self.layout.unpack(weights, self.vector)
        self.buffer_layout.unpack(buffers, self.buffer_vector)

    def weights(self) -> Tensor:
        """The parameters in wire order, f32[P], a copy on the CPU."""
        return self.layout.pack(self.vector)

    def buffers(self) -> Tensor:
        """The float buffers in wire order, f32[B], a copy on the CPU."""
        return self.buffer_vector.cpu().clone()

    def gather_gradient(self, out: Tensor) -> Tensor:
        """Copy the parameters' gradients into a native vector [padded]; missing ones count as zero."""
        for slot, parameter in zip(self.layout.slots, self.parameters, strict=True):
            view = slot.view(out)
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        return out

    def scatter_gradient(self, flat: Tensor) -> None:
        """Let the parameters' gradients be views of a native gradient vector [padded], until they are set anew."""
        for slot, parameter in zip(self.layout.slots, self.parameters, strict=True):
            parameter.grad = slot.view(flat)

    def fingerprint(self) -> str:
        """Hash of the architecture: backbone, classes, and every tensor's name, shape and type; taken once."""
        if not self._fingerprint:
            tensors = {**dict(self.net.named_parameters()), **persistent_buffers(self.net)}
            facts = [[name, list(t.shape), str(t.dtype)] for name, t in sorted(tensors.items())]
            text = json.dumps([self.spec.backbone, list(self.spec.classes), facts])
            self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._fingerprint

    def state_dict(self, weights: Tensor, buffers: Tensor) -> dict[str, Tensor]:
        """timm names -> contiguous CPU tensors for wire vectors, frozen parameters included."""
        named: dict[str, Tensor] = {}
        for layout, wire in ((self.layout, weights), (self.buffer_layout, buffers)):
            for slot in layout.slots:
                named[slot.name] = wire[slot.start : slot.start + slot.numel].view(slot.shape).clone()
        for name, parameter in self.net.named_parameters():
            if name not in named:
                named[name] = parameter.detach().cpu().contiguous().clone()
        return named

    def from_state_dict(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The wire vectors of a state dict with timm names. Raises MedflError when a tensor is missing or misshapen."""
        vectors = []
        for layout in (self.layout, self.buffer_layout):
            wire = torch.empty(layout.size)
            for slot in layout.slots:
                tensor = state.get(slot.name)
                if tensor is None or tensor.shape != slot.shape:
                    found = "absent" if tensor is None else f"of shape {tuple(tensor.shape)}"
                    raise MedflError(
                        f"the weights do not fit {self.spec.backbone}: {slot.name} is {found}, "
                        f"expected {tuple(slot.shape)}"
                    )
                wire[slot.start : slot.start + slot.numel].copy_(tensor.reshape(-1))
            vectors.append(wire)
        return vectors[0], vectors[1]

    def norm_slots(self) -> list[Slot]:
        """Slots of the affine parameters of normalisation layers (batch, group, layer, instance norm)."""
        kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
        owned = {
            f"{name}.{leaf}"
            for name, module in self.net.named_modules()
            if isinstance(module, kinds)
            for leaf, _ in module.named_parameters(recurse=False)
        }
        return [slot for slot in self.layout.slots if slot.name in owned]

    def stages(self) -> dict[str, list[Slot]]:
        """Slots by stage of the network: the top-level child, or one level deeper where children are numbered
        (`layer1`, `blocks.3`), or the stem and head modules by name."""
        grouped: dict[str, list[Slot]] = {}
        for slot in self.layout.slots:
            parts = slot.name.split(".")
            stage = (
                ".".join(parts[:2])
                if len(parts) > 1 and parts[1].isdigit() and not parts[0][-1].isdigit()
                else parts[0]
            )
            grouped.setdefault(stage, []).append(slot)
        return grouped


def persistent_buffers(net: nn.Module) -> dict[str, Tensor]:
    """Name -> buffer for the buffers that belong to the state dict."""
    kept = set(net.state_dict(keep_vars=True))
    return {name: buffer for name, buffer in net.named_buffers() if name in kept}


def _owner(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return net.get_submodule(path), leaf


def create(spec: ModelSpec, seed: int) -> nn.Module:
    """Build a float32 timm network with seeded initial weights.

    Raises:
        MedflError: unknown backbone (close matches shown), bad `args`, pretrained weights out of reach, bad checkpoint.
    """
    import timm  # seconds, which a pipeline that is only read and checked should not cost

    known = timm.list_models()
    if spec.backbone.split(".")[0] not in known:
        raise MedflError(
            f"`model.backbone`: timm {timm.__version__} has no {spec.backbone!r}.{nearest(spec.backbone, known)}"
        )
    if refused := sorted(FILES & set(spec.args)):
        raise MedflError(f"`model.args.{refused[0]}` names a file; remove it and use `model.checkpoint`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net: nn.Module = timm.create_model(
                spec.backbone, pretrained=spec.pretrained, num_classes=len(spec.classes), **dict(spec.args)
            )
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise MedflError(
                f"`model`: timm cannot build {spec.backbone} with args {dict(spec.args)}: {error}"
            ) from None
        except Exception as error:
            if not spec.pretrained:
                raise
            raise MedflError(
                f"`model.pretrained`: the weights of {spec.backbone} cannot be fetched ({type(error).__name__}); "
                f"download them where there is a network and name the file in `model.checkpoint`"
            ) from None
    if spec.checkpoint:
        load_checkpoint(net, Path(spec.checkpoint))
    return net.float()


def load_checkpoint(net: nn.Module, path: Path) -> None:
    """Load safetensors or a timm state dict (weights only, nothing executable) into a network.

    A classifier of another size is left at its initial values; any other difference is an error.
    """
    if not path.is_file():
        raise MedflError(f"`model.checkpoint`: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            state: dict[str, Any] = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            state = next((loaded[k] for k in ("state_dict_ema", "state_dict", "model") if k in loaded), loaded)
        state = {
            str(name).removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)
        }
    except Exception as error:
        raise MedflError(
            f"`model.checkpoint`: {path} is neither safetensors nor a weights-only state dict ({type(error).__name__})"
        ) from None
    own = net.state_dict()
    classifier: Any = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    for name in [n for n in state if n in own and state[n].shape != own[n].shape and n.startswith(heads)]:
        del state[name]
    wrong = sorted(n for n in state if n not in own or state[n].shape != own[n].shape)
    absent = sorted(n for n in own if n not in state and not n.startswith(heads) and "num_batches" not in n)
    if wrong or absent:
        raise MedflError(
            f"`model.checkpoint`: {path} does not fit the backbone: "
            f"{len(absent)} tensors missing, {len(wrong)} unknown or misshapen (first: {(absent + wrong)[0]})"
        )
    net.load_state_dict(state, strict=False)
