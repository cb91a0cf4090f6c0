"""MONAI and albumentations transforms named in a pipeline or site file.

An entry is a class name or `{Name: {argument: value}}`. MONAI's dictionary transforms see `image` as f32[3, S, S] in
grey levels 0..255 (those of `monai.apps.pathology` as u8[S, S, 3], which they ask for) and need no `keys`;
albumentations transforms see u8[S, S, 3]. Only those of `transform_names` may be named, with plain data as arguments.
Served and exported models carry this file along (`carried_code`).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.transform_names import ALBUMENTATIONS, MONAI
from medfl.errors import MedflError, nearest

U8 = NDArray[np.uint8]
Transform = str | dict[str, dict[str, Any]]
Step = Callable[[U8, int], tuple[U8, float]]
"""A patch and a seed to a patch, and the share of its values that were cut off to be grey levels."""
PATHOLOGY = "monai.apps.pathology"
FLAT = 3.0  # grey levels: the standard deviation within a patch below which nothing is seen in it
MOST = 0.5  # of the patches in which something was seen
CUT_OFF = 0.2  # of all values
WHOLE_RANGE = "it must take and give grey levels from 0 to 255: state that range (`minv: 0, maxv: 255`), or remove it"


@dataclass
class Effect:
    """What a transform has made of the patches of a site so far.

    Attributes:
        name: of the transform.
        patches: how many it was given.
        seen, lost: in how many something was seen, and in how many of these nothing is any more.
        cut_off: sum over the patches of the share of values outside grey levels.
    """

    name: str
    patches: int = 0
    seen: int = 0
    lost: int = 0
    cut_off: float = 0.0


class Rendering:
    """(patch u8[S, S, 3], seed) -> patch of the same shape: all of `specs` in order.

    Each transform draws from `seed` alone, so a patch looks the same whenever it is rendered. Rendering is a site's
    fixed look, so an albumentations transform has `p: 1` unless another p is stated.

    Args:
        specs: transforms by name, or by name with arguments.
        where: names the file's subject.

    Raises:
        MedflError: unknown name (nearest shown) or arguments, or, when applied, a transform that fails, changes the
            shape or gives no grey levels.
    """

    def __init__(self, specs: Sequence[Transform], where: str) -> None:
        self.where = where
        self._steps = [_step(spec, where) for spec in specs]
        self.effects = [Effect(name) for name, _ in self._steps]

    def __call__(self, patch: U8, seed: int) -> U8:
        seen = bool(self._steps) and _seen(patch)
        for number, ((name, step), effect) in enumerate(zip(self._steps, self.effects, strict=True)):
            try:
                result, cut_off = step(patch, (seed + number) % 2**32)
            except Exception as error:
                raise self._refusal(f"{name} failed on a patch: {_first_line(error)}") from error
            if result.shape != patch.shape:
                raise self._refusal(
                    f"{name} gives {list(result.shape)} from a patch of {list(patch.shape)}; a rendering transform "
                    f"keeps the size"
                )
            if result.dtype != np.uint8:
                raise self._refusal(f"{name} gives {result.dtype} from a patch of uint8; {WHOLE_RANGE}")
            before, seen = seen, _seen(result)
            effect.patches += 1
            effect.seen += before
            effect.lost += before and not seen
            effect.cut_off += cut_off
            patch = result
        return patch

    def check(self) -> None:
        """Raise MedflError where a transform leaves nothing to be seen in most patches, or cuts off their values."""
        for effect in self.effects:
            if effect.seen and effect.lost >= MOST * effect.seen:
                raise self._refusal(
                    f"{effect.name} leaves {effect.lost} of {effect.seen} patches nearly constant, so the model would "
                    f"see nothing in them; {WHOLE_RANGE}"
                )
            if effect.patches and effect.cut_off > CUT_OFF * effect.patches:
                raise self._refusal(
                    f"{effect.name} gives values outside grey levels, {effect.cut_off / effect.patches:.0%} of all, "
                    f"which would be cut off; {WHOLE_RANGE}"
                )

    def _refusal(self, what: str) -> MedflError:
        return MedflError(f"{self.where}: `render`: {what}")


def serving(specs: Sequence[Transform]) -> Callable[[U8], U8]:
    """`data.render` where a model is used, patches u8[N, S, S, 3] -> same: what a transform draws, it draws from the
    patch itself, so that a patch has one look wherever it is classified. Raises as `Rendering`."""
    render = Rendering(specs, "the model")

    def apply(patches: U8) -> U8:
        return np.stack([render(patch, _own_seed(patch)) for patch in patches]) if len(patches) else patches

    return apply


def serving_planes(specs: Sequence[Transform]) -> Callable[[Any], Any]:
    """`serving` for one image as MONAI holds it, f32[3, S, S] in whole grey levels. Raises as `Rendering`."""
    import torch

    apply = serving(specs)

    def planes(image: Any) -> Any:
        patch = to_bytes(torch.as_tensor(image))
        return torch.from_numpy(apply(patch[None])[0].copy()).permute(2, 0, 1).float().contiguous()

    return planes


def packages(specs: Sequence[Transform]) -> list[str]:
    """The packages that these transforms come from, beside PyTorch and NumPy."""
    names = [spec if isinstance(spec, str) else next(iter(spec), "") for spec in specs]
    of_monai = [name for name in names if name in MONAI]
    others = ["albumentations", "opencv-python-headless"] if len(of_monai) < len(names) else []
    needs_monai = bool(of_monai) or any(name not in ALBUMENTATIONS for name in names)
    return [*others, *(["monai"] if needs_monai else [])]


def to_bytes(image: Any) -> U8:
    """Grey levels f32[3, H, W], a PyTorch tensor, to u8[H, W, 3], rounded half up and clipped."""
    result: U8 = (image.float() + 0.5).floor().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    return result


def albumentations_jitter(
    specs: Sequence[Transform], where: str = "`training.augment.jitter`"
) -> Callable[[U8, int], U8]:
    """Training jitter, (patches u8[B, S, S, 3], seed) -> same shape: albumentations transforms patch by patch.

    Raises MedflError for an unknown name or arguments.
    """
    albumentations = _albumentations()
    transforms = _classes(albumentations, albumentations.BasicTransform)
    compose = albumentations.Compose([_make(transforms, *_parts(spec, where), where) for spec in specs])

    def apply(patches: U8, seed: int) -> U8:
        compose.set_random_seed(seed % 2**32)
        return np.stack([compose(image=patch)["image"] for patch in patches])

    return apply


def try_jitter(specs: Sequence[Transform], size: int, where: str = "`training.augment.jitter`") -> None:
    """Apply each transform of a training jitter to one drawn patch u8[size, size, 3], whatever its probability.

    Raises:
        MedflError: as `albumentations_jitter`, or a transform that fails or does not keep shape and type.
    """
    albumentations = _albumentations()
    transforms = _classes(albumentations, albumentations.BasicTransform)
    patch = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    for spec in specs:
        name, arguments = _parts(spec, where)
        transform = _make(transforms, name, {**arguments, "p": 1.0}, where)
        try:
            result = np.asarray(transform(image=patch)["image"])
        except Exception as error:
            raise MedflError(f"{where}: {name} failed on a patch of {size} px: {_first_line(error)}") from error
        if (result.shape, result.dtype) != (patch.shape, patch.dtype):
            raise MedflError(
                f"{where}: {name} gives {result.dtype} {list(result.shape)} from a patch of uint8 {list(patch.shape)}; "
                f"jitter keeps size and type"
            )


def _step(spec: Transform, where: str) -> tuple[str, Step]:
    name, arguments = _parts(spec, where)
    transforms: dict[str, type] = {}
    if name not in MONAI:
        albumentations = _albumentations()
        transforms = _classes(albumentations, albumentations.BasicTransform)
    if name in transforms:
        return name, _albumentations_step(_make(transforms, name, {"p": 1.0, **arguments}, where))
    from monai.transforms import MapTransform

    dictionary = _classes(importlib.import_module("monai.transforms"), MapTransform)
    dictionary |= _classes(importlib.import_module(f"{PATHOLOGY}.transforms"), MapTransform)
    if name in dictionary:
        return name, _monai_step(_make(dictionary, name, {"keys": ["image"], **arguments}, where))
    raise MedflError(
        f"{where}: there is no transform {name} among albumentations' and MONAI's dictionary transforms."
        f"{nearest(name, [*transforms, *dictionary])}"
    )


def _albumentations_step(transform: Any) -> Step:
    def step(patch: U8, seed: int) -> tuple[U8, float]:
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return np.asarray(transform(image=patch)["image"]), 0.0

    return step


def _monai_step(transform: Any) -> Step:
    import torch
    from monai.transforms import Randomizable

    pathology = type(transform).__module__.startswith(PATHOLOGY)

    def step(patch: U8, seed: int) -> tuple[U8, float]:
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=seed)
        if pathology:
            return np.asarray(transform({"image": patch})["image"]), 0.0
        pixels = torch.tensor(patch).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        result = torch.as_tensor(transform({"image": pixels})["image"]).float()
        if not torch.isfinite(result).all():
            raise ValueError("it gives values that are no numbers")
        return to_bytes(result), float(((result < -0.5) | (result > 255.5)).float().mean())

    return step


def _seen(patch: U8) -> bool:
    """Whether something is seen in a patch, looked at where a grid of at most 64 x 64 pixels lies."""
    step = -(-max(patch.shape[:2]) // 64)
    return bool(patch[::step, ::step].std(axis=(0, 1)).max() >= FLAT)


def _own_seed(patch: U8) -> int:
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(patch).tobytes()).digest()[:4])


def _parts(spec: Transform, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if len(spec) != 1:
        raise MedflError(f"{where}: a transform is one name with its arguments, not {', '.join(spec) or 'nothing'}")
    name, arguments = next(iter(spec.items()))
    return name, arguments


def _make(transforms: dict[str, type], name: str, arguments: dict[str, Any], where: str) -> Any:
    if name not in transforms:
        raise MedflError(f"{where}: albumentations has no transform {name}.{nearest(name, transforms)}")
    if transforms[name].__name__ not in MONAI | ALBUMENTATIONS:
        raise MedflError(
            f"{where}: {name} may not be named in a file: only transforms that make pixels out of pixels and numbers "
            f"may (medfl.data.transform_names lists them); remove it"
        )
    if not _plain(arguments):
        raise MedflError(f"{where}: the arguments of {name} may be numbers, text, lists and mappings of these only")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns of an unknown argument
            return transforms[name](**arguments)
    except Exception as error:
        raise MedflError(f"{where}: {name} does not take these arguments: {_first_line(error)}") from error


def _plain(value: Any) -> bool:
    """Whether a value is data and nothing else."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float)


def _classes(module: Any, base: type) -> dict[str, type]:
    members: Iterable[tuple[str, Any]] = vars(module).items()
    return {name: item for name, item in members if isinstance(item, type) and issubclass(item, base)}


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version
    return importlib.import_module("albumentations")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
