"""MONAI and albumentations transforms named in a pipeline or site file.

An entry is a class name or `{Name: {argument: value}}`. MONAI's dictionary transforms see `image` as f32[3, S, S] in
grey levels 0..255 (those of `monai.apps.pathology` as u8[S, S, 3], which they ask for) and need no `keys`;
albumentations transforms see u8[S, S, 3]. Only those of `transform_names` may be named, with plain data as arguments.
"""

from __future__ import annotations

import importlib
import os
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from medfl.config import Transform
from medfl.data.patch_store import U8
from medfl.data.transform_names import ALBUMENTATIONS, MONAI
from medfl.errors import MedflError, nearest

Step = Callable[[U8, int], U8]
PATHOLOGY = "monai.apps.pathology"


def rendering(specs: Sequence[Transform], where: str) -> Step:
    """One function (patch u8[S, S, 3], seed) -> patch of the same shape that applies all of `specs` in order.

    Each transform draws from `seed` alone, so a patch looks the same whenever it is rendered. Rendering is a site's
    fixed look, so an albumentations transform has `p: 1` unless another p is stated.

    Raises:
        MedflError: unknown name (nearest shown) or arguments, or, when applied, a transform that fails or changes the
            shape; `where` names the file's subject.
    """
    steps = [_step(spec, where) for spec in specs]

    def render(patch: U8, seed: int) -> U8:
        for number, (name, step) in enumerate(steps):
            try:
                result = step(patch, (seed + number) % 2**32)
            except Exception as error:
                raise MedflError(f"{where}: `render`: {name} failed on a patch: {_first_line(error)}") from error
            if result.shape != patch.shape:
                raise MedflError(
                    f"{where}: `render`: {name} gives {list(result.shape)} from a patch of {list(patch.shape)}; a "
                    f"rendering transform keeps the size"
                )
            patch = result
        return patch

    return render


def albumentations_jitter(specs: Sequence[Transform], where: str = "`training.augment.jitter`") -> Step:
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
    def step(patch: U8, seed: int) -> U8:
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result: U8 = transform(image=patch)["image"]
        return result

    return step


def _monai_step(transform: Any) -> Step:
    import torch
    from monai.transforms import Randomizable

    from medfl.data.decode import to_bytes

    pathology = type(transform).__module__.startswith(PATHOLOGY)

    def step(patch: U8, seed: int) -> U8:
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=seed)
        if pathology:
            result: U8 = np.asarray(transform({"image": patch})["image"])
            return result
        pixels = torch.tensor(patch).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        return to_bytes(torch.as_tensor(transform({"image": pixels})["image"]))

    return step


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
