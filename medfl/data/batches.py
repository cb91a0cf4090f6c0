"""Batches of patches on the training device: gathering, augmentation, normalisation. No worker processes.

A site's uint8 array lives on the device when it fits, else in host memory (memory-mapped on a CPU). What lies in
several files or as JPEGs (`stored_patches`) and does not fit is read ahead of the steps on threads. All randomness
comes from a seed given by the caller, so a round repeats exactly.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from medfl.data.patch_store import U8, Patches, PatchStore
from medfl.data.restain import draw_laboratories, restain
from medfl.data.stain_exchange import DyeExchange
from medfl.data.stored_patches import StoredPatches
from medfl.seeds import seed_for

Jitter = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
COLOUR_CHUNKS = 4  # colour factors are drawn per quarter of a batch: torchvision takes one factor a call
CPU_PIXELS, CPU_PATCHES = 1 << 18, 8  # of a forward pass on a CPU: at most so many pixels, but not fewer patches
AHEAD = 2  # batches that are decoded before they are asked for
COPIED = 1024  # patches that go to a device at a time


@dataclass(frozen=True)
class AugmentSpec:
    """Training augmentation on the device. Colour values are half-widths of the factor's range around 1 (hue: 0);
    `stain` is the strength of a random laboratory for each patch, `exchange` the share of patches that get dyes of
    other sites; `jitter` names what is done besides, patch by patch on the CPU. `bag_dropout` is the share of a bag's
    instances that a step leaves out."""

    flips: bool = True
    rotate90: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: str = ""
    stain: float = 0.0
    exchange: float = 0.0
    bag_dropout: float = 0.0

    @property
    def colour(self) -> bool:
        """Whether any colour factor varies."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def acts(self) -> bool:
        """Whether a patch may look otherwise than it is."""
        return self.flips or self.rotate90 or self.colour or bool(self.jitter or self.stain or self.exchange)


def at_once(batch_size: int, size: int, device: torch.device) -> int:
    """How many patches of S = `size` px go through a network together where no gradient is taken: `batch_size`, on a
    CPU no more than have CPU_PIXELS. The maps of more leave its cache, and are memory that the system clears each
    time."""
    return batch_size if device.type != "cpu" else min(batch_size, max(CPU_PATCHES, CPU_PIXELS // size**2))


def epoch_order(rows: NDArray[np.int64], batch_size: int, steps: int, seed: int) -> Tensor:
    """Row numbers of every batch, i64[steps, batch_size]: shuffled passes over `rows`, one after another.

    Every batch is full (one static shape): where a pass ends inside a batch, the next pass fills it up.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.from_numpy(np.ascontiguousarray(rows))
    passes = -(-steps * batch_size // len(rows))
    order = torch.cat([pool[torch.randperm(len(rows), generator=generator)] for _ in range(passes)])
    return order[: steps * batch_size].view(steps, batch_size)


class Batches:
    """One site's patches, ready to be drawn from.

    Args:
        store: the site's rendered patches.
        device: where batches are made.
        mean, std: normalisation of the backbone, per channel, for values in [0, 1].
        augment: what training batches undergo.
        jitter: optional patch-wise augmentation on the CPU, (u8[B, S, S, 3], seed) -> same shape.
        channels_last: give batches in that memory format, the one they are stored in.
        exchange: the dyes of other sites, where there are any.
    """

    def __init__(
        self,
        store: PatchStore,
        device: torch.device,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: AugmentSpec,
        jitter: Jitter | None = None,
        channels_last: bool = False,
        exchange: DyeExchange | None = None,
    ) -> None:
        self.store = store
        self.device = device
        self.mean, self.std = list(mean), list(std)
        self.augment = augment
        self.jitter = jitter
        self.exchange = exchange
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the array is read-only and never written through
            self.labels = torch.from_numpy(np.asarray(store.labels)).to(device)
            self.images = self._placed(store.images)

    def _placed(self, images: Patches) -> Tensor | StoredPatches:
        """The patches where batches are gathered from: on the device where they fit and are not jittered before."""
        pinned = self.device.type == "cuda" and self.jitter is None
        fits = pinned and images.nbytes < torch.cuda.mem_get_info(self.device)[0] // 2
        if isinstance(images, StoredPatches):
            return _copied(images, self.device) if fits else images
        tensor = torch.from_numpy(np.asarray(images))
        if fits:
            return tensor.to(self.device)
        return tensor.pin_memory() if pinned else tensor

    @property
    def training_patches(self) -> U8:
        """u8[n, S, S, 3], as they are stored."""
        return self.store.images[self.store.splits["train"]]

    def training(self, order: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised (images f32[B, 3, S, S], labels i64[B]) for each row of `order` i64[T, B].

        Whatever is drawn goes to the device once, before the first batch, so that no step waits for the host. Patches
        that live in host memory are gathered one batch ahead, while the device works on the one before.
        """
        generator = torch.Generator().manual_seed(seed)
        colours = torch.Generator().manual_seed(seed_for(seed, "colour"))
        coins = _to(torch.rand(len(order), 3, order.shape[1], generator=generator) < 0.5, self.device)
        laboratories = draw_laboratories(order.numpy(), seed, self.augment.stain, self.augment.exchange, self.exchange)
        laboratories = laboratories and laboratories.to(self.device)
        rows = _to(order, self.device)
        source = rows if self._place == self.device else order
        for step, images in enumerate(self._gathered(source, seed if self.jitter else None)):
            images = flip_and_turn(images, self.augment, coins[step])
            if laboratories is not None:
                images = restain(images, laboratories.transforms[step], laboratories.white[step])
            yield self._normalise(images, colours), self.labels[rows[step]]

    def parts(self, rows: NDArray[np.int64], batch_size: int, full: bool = False) -> list[NDArray[np.int64]]:
        """Rows that go through a network together where no gradient is taken, of about the same number, `batch_size` at
        most. With `full` the last row is repeated until all are as many, so that a compiled network sees one shape."""
        most = at_once(batch_size, self.store.images.shape[1], self.device)
        if full:
            rows = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % most)])
        return np.array_split(rows, -(-len(rows) // most)) if len(rows) else []

    def evaluation(self, rows: NDArray[np.int64], batch_size: int, full: bool = False) -> Iterator[Tensor]:
        """Normalised images f32[<= batch_size, 3, S, S] of `parts`, in the order of `rows`."""
        parts = self.parts(rows, batch_size, full)
        order = torch.from_numpy(np.concatenate([rows[:0], *parts])).to(self._place)
        for images in self._gathered(torch.split(order, [len(part) for part in parts]), None):
            yield self._normalise(images, None)

    def normalised(self, patches: NDArray[np.uint8]) -> Tensor:
        """Patches u8[B, S, S, 3] that are no rows of the store, as the network takes them, f32[B, 3, S, S]."""
        return self._normalise(self._on_device(torch.from_numpy(patches)), None)

    @property
    def _place(self) -> torch.device:
        """Where row numbers are needed."""
        return self.images.device if isinstance(self.images, Tensor) else torch.device("cpu")

    def _gathered(self, batches: Sequence[Tensor] | Tensor, jitter_seed: int | None) -> Iterator[Tensor]:
        """u8[B, 3, S, S] on the device for each batch of rows, gathered one batch ahead; decoded ahead on threads."""

        def gather(step: int) -> Tensor:
            return self._gather(batches[step], None if jitter_seed is None else jitter_seed + step)

        if isinstance(self.images, Tensor):
            ahead = self._on_device(gather(0)) if len(batches) else None
            for step in range(len(batches)):
                images = ahead
                ahead = self._on_device(gather(step + 1)) if step + 1 < len(batches) else None
                assert images is not None
                yield images
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = deque(pool.submit(gather, step) for step in range(min(AHEAD, len(batches))))
            for step in range(AHEAD, len(batches) + AHEAD):
                decoded = waiting.popleft().result()
                if step < len(batches):
                    waiting.append(pool.submit(gather, step))
                yield self._on_device(decoded)

    def _gather(self, rows: Tensor, jitter_seed: int | None) -> Tensor:
        """u8[B, S, S, 3] where the patches are, which is where `rows` are."""
        images = self.images[rows] if isinstance(self.images, Tensor) else torch.from_numpy(self.images[rows.numpy()])
        if jitter_seed is not None and self.jitter is not None:
            images = torch.from_numpy(self.jitter(images.numpy(), jitter_seed))
        return images

    def _on_device(self, images: Tensor) -> Tensor:
        """u8[B, S, S, 3] -> u8[B, 3, S, S] on the device."""
        return _to(images, self.device).permute(0, 3, 1, 2).contiguous(memory_format=self.format)

    def _normalise(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        images = tvf.to_dtype(images, torch.float32, scale=True)  # nothing to do for what has been restained
        if generator is not None and self.augment.colour:
            images = jitter_colour(images, self.augment, generator)
        result: Tensor = tvf.normalize(images, self.mean, self.std, inplace=True)
        return result


def _copied(patches: StoredPatches, device: torch.device) -> Tensor:
    """All patches on a device, COPIED at a time."""
    images = torch.empty(patches.shape, dtype=torch.uint8, device=device)
    for begin in range(0, len(patches), COPIED):
        images[begin : begin + COPIED] = torch.from_numpy(patches[begin : begin + COPIED]).to(device)
    return images


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; from pinned memory, so that the host does not wait for the copy."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def flip_and_turn(images: Tensor, augment: AugmentSpec, coins: Tensor) -> Tensor:
    """Flip each patch of u8[B, 3, S, S] left-right and up-down, and transpose it, as its coins bool[3, B] say.

    With fair coins the three together draw uniformly from the eight symmetries of the square.
    """
    coins = coins[:, :, None, None, None]
    if augment.flips:
        images = torch.where(coins[0], tvf.horizontal_flip(images), images)
        images = torch.where(coins[1], tvf.vertical_flip(images), images)
    if augment.rotate90:
        images = torch.where(coins[2], images.transpose(2, 3), images)
    return images


def jitter_colour(images: Tensor, augment: AugmentSpec, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue factors, one set per quarter of the batch f32[B, 3, S, S] in [0, 1]."""
    parts = []
    for part in images.chunk(COLOUR_CHUNKS):
        draw = (torch.rand(4, generator=generator) * 2 - 1).tolist()
        if augment.brightness:
            part = tvf.adjust_brightness(part, 1 + augment.brightness * draw[0])
        if augment.contrast:
            part = tvf.adjust_contrast(part, 1 + augment.contrast * draw[1])
        if augment.saturation:
            part = tvf.adjust_saturation(part, 1 + augment.saturation * draw[2])
        if augment.hue:
            part = tvf.adjust_hue(part, augment.hue * draw[3])
        parts.append(part)
    return torch.cat(parts)
