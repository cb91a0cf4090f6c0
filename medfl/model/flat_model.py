"""A timm backbone over one flat parameter vector.

Parameters that train are views into one contiguous float32 buffer, the *native* vector: every parameter starts at a
multiple of 64 bytes, the padding between them is zero and stays zero, and with `channels_last` the four-dimensional
weights are strided views of NHWC storage. Copies, drift, norms, masks and aggregation are then single vector
operations, and no state dict appears in the round loop. Floating-point buffers (BatchNorm statistics) are a second
vector; integer buffers are never averaged. What leaves the process is in *wire order* (`pack`): canonical layout, no
padding. What is frozen is in neither vector: it belongs to the network, like its architecture, and its values to the
fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medfl.errors import MedflError
from medfl.model import allocator, disk_vector
from medfl.model.backbone import ModelSpec, create
from medfl.model.bag_network import BagNetwork, Bags
from medfl.model.layout import Layout, Slot, VectorBlock
from medfl.model.lora import Lora, is_factor, merged
from medfl.model.trained_part import TrainingModes, evaluating, freeze

BLOCK = 1 << 20  # values, which a CPU's cache holds
ALL = VectorBlock(slice(None), slice(None))


class FlatModel:
    """One network for any number of sites: load a vector, train, read the vector back.

    Attributes:
        net: the timm module; its parameters that train and their float buffers are views of the two vectors.
        vector: native f32[padded] of the parameters that train, on `device`.
        buffer_vector: native f32[...] of their modules' float buffers, on `device`.
        layout, buffer_layout: their layouts.
        spec: how the network was built, everything filled in that its weights state.
        start: what is known of the weights that it started from.
        input, mean, std: how images are given to it.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, seed: int = 0) -> None:
        built = create(spec, seed)
        self.spec = built.spec
        self.start = built.start
        self.device = device
        self.net = built.net.to(device)
        self.input = built.input
        self.mean, self.std = built.input.mean, built.input.std
        self._modes = TrainingModes(self.net, freeze(self.net, spec.train, str(self.spec.backbone), seed))
        self.train_mode()
        trainable = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        buffers = {
            name: b
            for name, b in persistent_buffers(self.net).items()
            if b.is_floating_point() and _owner(self.net, name)[0].training
        }
        self.layout = Layout.of(trainable, spec.channels_last)
        # Buffers are small vectors; packed tightly, their native and wire orders are the same.
        self.buffer_layout = Layout.of(buffers, channels_last=False, align=1)
        self.vector = torch.zeros(self.layout.padded, device=device)
        self.buffer_vector = torch.zeros(self.buffer_layout.padded, device=device)
        for slot in self.layout.slots:
            slot.view(self.vector).copy_(trainable[slot.name].data)
            trainable[slot.name].data = slot.view(self.vector)
        owners = {name: _owner(self.net, name) for name in buffers}
        for slot in self.buffer_layout.slots:
            view = slot.view(self.buffer_vector)
            view.copy_(buffers[slot.name])
            module, leaf = owners[slot.name]
            module._buffers[leaf] = view
        self.parameters = list(trainable.values())
        self._tensors = lru_cache(maxsize=4)(self.layout.tensors)  # of the few vectors that all steps use
        if spec.channels_last:
            for tensor in self.frozen().values():
                if tensor.dim() == 4:
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        self._fingerprint = ""
        self._frozen_digest: tuple[list[int], str] | None = None
        self.check()

    def train_mode(self) -> None:
        """Put what trains into training mode, and what is frozen into evaluation mode."""
        self._modes.train()

    def eval_mode(self) -> None:
        """Put all of the network into evaluation mode."""
        self._modes.eval()

    @property
    def trains_features(self) -> bool:
        """Whether anything before the classifier trains."""
        return self.spec.train != "head"

    def frozen(self) -> dict[str, Tensor]:
        """The parameters and float buffers that never move, by timm's names; none where all trains."""
        return dict(self._frozen)

    @cached_property
    def _frozen(self) -> dict[str, Tensor]:
        moving = {slot.name for layout in (self.layout, self.buffer_layout) for slot in layout.slots}
        tensors = {**dict(self.net.named_parameters()), **persistent_buffers(self.net)}
        return {name: t for name, t in tensors.items() if name not in moving and t.is_floating_point()}

    def frozen_digest(self) -> str:
        """sha256 of the names, shapes and values of what is frozen, the same on every device; "" where nothing is.
        Taken again only once a value was written."""
        frozen, digest = self.frozen(), hashlib.sha256()
        written = [tensor._version for tensor in frozen.values()]
        if self._frozen_digest is not None and self._frozen_digest[0] == written:
            return self._frozen_digest[1]
        for name in sorted(frozen):
            values = frozen[name].detach().cpu().contiguous()
            digest.update(f"{name} {list(values.shape)}\n".encode())
            digest.update(values.numpy().tobytes())
        self._frozen_digest = written, digest.hexdigest() if frozen else ""
        return self._frozen_digest[1]

    def load_frozen(self, state: Mapping[str, Tensor]) -> None:
        """Give what is frozen the values of a state dict with timm names. Raises MedflError as `from_state_dict`."""
        for name, tensor in self.frozen().items():
            tensor.data.copy_(self._tensor_of(state, name, tensor.shape))
        self._fingerprint, self._frozen_digest = "", None

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

    def rest_on_disk(self) -> None:
        """Keep the vector in a file where it is large: for a server, which trains nothing."""
        if self.device.type == "cpu" and self.vector.nbytes > disk_vector.LARGE:
            self._tensors.cache_clear()  # it holds the vectors it has seen
            self._lie_in(disk_vector.copied(self.vector))
            allocator.return_freed()

    @contextmanager
    def at(self, point: Tensor) -> Iterator[None]:
        """Inside, the network is at another native vector [padded], which `vector` names; its own is left alone."""
        home = self.vector
        self._lie_in(point)
        try:
            yield
        finally:
            self._lie_in(home)

    def _lie_in(self, vector: Tensor) -> None:
        self.vector = vector
        for view, parameter in zip(self._tensors(vector), self.parameters, strict=True):
            parameter.data = view

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

    @property
    def bag_dim(self) -> int | None:
        """F where the network takes bags of feature vectors f32[n, F]; None where it takes images."""
        return self.net.dim if isinstance(self.net, BagNetwork) else None

    @property
    def gives_features(self) -> bool:
        """Whether the network has one classifier at its end, so that `features` and `head` are its two parts."""
        apart = hasattr(self.net, "forward_features") and hasattr(self.net, "forward_head")
        return apart and isinstance(self.net.get_classifier(), nn.Module)  # type: ignore[operator]

    def features(self, images: Tensor | Bags) -> Tensor:
        """What the classifier receives, f32[N, F], of normalised images f32[N, 3, S, S] or of N bags, through timm's
        own `forward_features` and `forward_head`; features f32[N, F] are what they are."""
        return images if isinstance(images, Tensor) and images.dim() == 2 else _features(self.net, images)

    def head(self, features: Tensor) -> Tensor:
        """Logits f32[N, C] of features f32[N, F]: `head(features(x))` is `net(x)`."""
        classifier: Any = self.net.get_classifier()  # type: ignore[operator]
        logits: Tensor = classifier(features)
        return logits

    def features_at(self, vector: Tensor, buffers: Tensor, images: Tensor | Bags) -> Tensor:
        """Features f32[N, F] under other weights, native vectors [padded], without gradient, in evaluation mode."""
        tensors = {f"net.{slot.name}": slot.view(vector) for slot in self.layout.slots}
        tensors |= {f"net.{slot.name}": slot.view(buffers) for slot in self.buffer_layout.slots}
        with evaluating(self.net), torch.no_grad():
            features: Tensor = torch.func.functional_call(_FeatureExtractor(self.net), tensors, (images,))
        return features

    @cached_property
    def blocks(self) -> list[VectorBlock]:
        """What may be worked on at a time: as much as a CPU's cache holds, on a GPU all."""
        return self.layout.blocks(BLOCK) if self.device.type == "cpu" else [ALL]

    def gather_gradient(self, out: Tensor, members: slice = slice(None)) -> Tensor:
        """Copy the gradients of these parameters into a native vector [padded]; missing ones count as zero."""
        for view, parameter in zip(self._tensors(out)[members], self.parameters[members], strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        return out

    def scatter_gradient(self, flat: Tensor, members: slice = slice(None)) -> None:
        """Let the gradients of these parameters be views of a native vector [padded], until they are set anew."""
        for view, parameter in zip(self._tensors(flat)[members], self.parameters[members], strict=True):
            parameter.grad = view

    def fingerprint(self) -> str:
        """Hash of the architecture: backbone, classes, every tensor's name, shape and type, pooling where it is stated;
        and, where a part is frozen, of which part trains and of the frozen values. Taken once."""
        if not self._fingerprint:
            self._fingerprint = self._hashed(self.frozen_digest(), factors=True)
        return self._fingerprint

    def saved_fingerprint(self) -> str:
        """Fingerprint of the network that `state_dict` gives: with LoRA a plain one, in which nothing is frozen."""
        return self._hashed("", factors=False) if isinstance(self.spec.train, Lora) else self.fingerprint()

    def _hashed(self, frozen: str, factors: bool) -> str:
        tensors = {**dict(self.net.named_parameters()), **persistent_buffers(self.net)}
        shown = sorted(name for name in tensors if factors or not is_factor(name))
        facts = [[name, list(tensors[name].shape), str(tensors[name].dtype)] for name in shown]
        further = [part for part in (frozen, self.spec.pooling) if part]
        text = json.dumps([self.spec.backbone, list(self.spec.classes), facts, *further])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def state_dict(self, weights: Tensor, buffers: Tensor) -> dict[str, Tensor]:
        """timm names -> contiguous CPU tensors for wire vectors, with what is frozen; with LoRA those of the plain
        network, the products merged into its weights. Views of what they come from where they can be."""
        named: dict[str, Tensor] = {}
        for layout, wire in ((self.layout, weights), (self.buffer_layout, buffers)):
            for slot in layout.slots:
                named[slot.name] = wire[slot.start : slot.start + slot.numel].view(slot.shape)
        return merged(named | {name: t.detach().cpu().contiguous() for name, t in self.frozen().items()})

    def from_state_dict(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The wire vectors of a state dict with timm names. Raises MedflError when a tensor is missing or misshapen."""
        vectors = []
        for layout in (self.layout, self.buffer_layout):
            wire = torch.empty(layout.size)
            for slot in layout.slots:
                tensor = self._tensor_of(state, slot.name, slot.shape)
                wire[slot.start : slot.start + slot.numel].copy_(tensor.reshape(-1))
            vectors.append(wire)
        return vectors[0], vectors[1]

    def _tensor_of(self, state: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
        tensor = state.get(name)
        if tensor is None or tensor.shape != shape:
            actual = "absent" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise MedflError(
                f"the weights do not fit {self.spec.backbone}: {name} is {actual}, expected {tuple(shape)}"
            )
        return tensor

    def moving_batchnorm(self) -> list[_BatchNorm]:
        """BatchNorm layers whose statistics are those of training, none of what is frozen."""
        moving = {slot.name for slot in self.buffer_layout.slots}
        return [layer for name, layer in self.all_batchnorm().items() if f"{name}.running_mean" in moving]

    def all_batchnorm(self) -> dict[str, _BatchNorm]:
        """BatchNorm layers that keep statistics, by name."""
        layers = {name: layer for name, layer in self.net.named_modules() if isinstance(layer, _BatchNorm)}
        return {name: layer for name, layer in layers.items() if layer.running_mean is not None}

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


class _FeatureExtractor(nn.Module):
    """A network whose forward pass ends before the classifier."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor | Bags) -> Tensor:
        """Features f32[N, F]."""
        return _features(self.net, images)


def _features(net: Any, images: Tensor | Bags) -> Tensor:
    features: Tensor = net.forward_head(net.forward_features(images), pre_logits=True)
    return features


def persistent_buffers(net: nn.Module) -> dict[str, Tensor]:
    """Name -> buffer for the buffers that belong to the state dict."""
    kept = set(net.state_dict(keep_vars=True))
    return {name: buffer for name, buffer in net.named_buffers() if name in kept}


def _owner(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return net.get_submodule(path), leaf
