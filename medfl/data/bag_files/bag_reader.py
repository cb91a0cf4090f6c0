"""One file of feature vectors: HDF5 as TRIDENT, CLAM and STAMP write it, or a tensor that PyTorch saved.

What is not a bag of finite numbers is refused with a reason. Of a `.pt` file tensors alone are read (`weights_only`),
and of an HDF5 file what lies in it: no links to other files, no data sets that stand elsewhere.
"""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfl.config.regular_file import open_regular
from medfl.config.spelling import show
from medfl.data.bag_store import UNSTATED, FeatureOrigin, Features
from medfl.data.rgb import Unreadable
from medfl.errors import MedflError, install_extra

if TYPE_CHECKING:
    import torch

FEATURES = ("features", "feats")
COORDS = "coords"
HDF5 = (".h5", ".hdf5")
TENSOR = (".pt", ".pth")
SUFFIXES = (*HDF5, *TENSOR)
MOST_NUMBERS = 1 << 31
MPP_AT_1X = 10.0
"""Microns per pixel of an objective that magnifies once, by the convention that 20x is half a micron."""


@dataclass(frozen=True)
class BagHeader:
    """What a file says before its numbers are read: instances n, their length F, whether they have 16 bits, and what
    made them, as far as the file says it."""

    instances: int
    dim: int
    half: bool
    origin: FeatureOrigin


def read_header(path: Path) -> BagHeader:
    """The header of a file of features.

    Raises:
        Unreadable: it is damaged, or holds no bag of features. OSError: it cannot be opened.
    """
    if path.suffix.lower() in TENSOR:
        tensor, coords = _load_tensor(path)
        return _header(tuple(tensor.shape), _is_half(tensor), coords, UNSTATED)
    with _hdf5(path) as file:
        features, coords = _data_sets(file)
        shape = tuple(features.shape)
        return _header(shape, features.dtype == np.float16, coords, _origin(file, features, coords))


def read_bag(path: Path) -> tuple[Features, NDArray[Any] | None]:
    """Features f32 or f16 [n, F], and where each instance lies, [n, 2], in the file's own units; None where it does not
    say.

    Raises:
        Unreadable: as `read_header`, and numbers that are not finite. OSError: it cannot be opened.
    """
    if path.suffix.lower() in TENSOR:
        tensor, coords = _load_tensor(path)
        _header(tuple(tensor.shape), False, coords, UNSTATED)
        kept = tensor if _is_half(tensor) else tensor.float()
        return _finite(kept.reshape(-1, kept.shape[-1]).numpy()), None if coords is None else coords.numpy()
    with _hdf5(path) as file:
        data, coords = _data_sets(file)
        _header(tuple(data.shape), False, coords, UNSTATED)
        features = data[...]
        if features.dtype != np.float16:
            features = features.astype(np.float32)
        return _finite(features.reshape(-1, features.shape[-1])), None if coords is None else coords[...]


def _header(shape: tuple[int, ...], half: bool, coords: Any, origin: FeatureOrigin) -> BagHeader:
    """Check shapes. Raises Unreadable."""
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or not shape[1]:
        raise Unreadable(f"its features have the shape {list(shape)}, not [tiles, numbers]")
    if not shape[0]:
        raise Unreadable("it holds no tile")
    if shape[0] * shape[1] > MOST_NUMBERS:
        raise Unreadable(f"its features have the shape {list(shape)}, more than {MOST_NUMBERS:,} numbers")
    if coords is not None and (len(coords.shape) < 2 or coords.shape[-2] != shape[0] or coords.shape[-1] < 2):
        raise Unreadable(f"it has features of {shape[0]} tiles and coords of the shape {list(coords.shape)}")
    return BagHeader(shape[0], shape[1], half, origin)


def _finite(features: Features) -> Features:
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(axis=1)).sum())
        raise Unreadable(f"the features of {bad} of its {len(features)} tiles are not finite (NaN or infinite)")
    return features


# ------------------------------------------------------------------------------------------------------------- tensors


def _load_tensor(path: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tensor of features of a file, and of coordinates where it is a mapping with both."""
    import torch  # seconds, which a pipeline that is only read and checked should not cost

    with open_regular(path):
        pass
    try:
        content = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise Unreadable(
            "it holds objects besides tensors, or is damaged; tensors alone are read (weights-only)"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged archive makes of PyTorch
        raise Unreadable(f"it is no whole file that PyTorch saved ({type(error).__name__})") from None
    coords = None
    if isinstance(content, Mapping):
        coords = content.get(COORDS) if isinstance(content.get(COORDS), torch.Tensor) else None
        content = next((content[name] for name in FEATURES if name in content), content)
    if not isinstance(content, torch.Tensor):
        raise Unreadable(f"it holds a {type(content).__name__} and no tensor of features [tiles, numbers]")
    if not content.is_floating_point() or content.layout is not torch.strided:
        raise Unreadable(f"its tensor is of {content.dtype}, not of floating-point numbers")
    return content.detach(), coords


def _is_half(tensor: torch.Tensor) -> bool:
    """Whether a tensor has 16 bits as NumPy knows them."""
    return str(tensor.dtype) == "torch.float16"


# ---------------------------------------------------------------------------------------------------------------- HDF5


def hdf5_library(what: str) -> Any:
    """h5py. Raises MedflError, begun by `what`, where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise MedflError(f"{what}, which needs h5py; {install_extra('features')}") from None
    return h5py


def attribute(path: Path, name: str) -> str:
    """A text that an HDF5 file has as an attribute, "" where it has none. Raises Unreadable, OSError."""
    with _hdf5(path) as file:
        return _text(file.attrs.get(name, ""))


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    """The open file. Raises Unreadable for what the library refuses, here or while it is read."""
    h5py = hdf5_library(f"{path} is an HDF5 file")
    with open_regular(path) as stream:
        try:
            with h5py.File(stream, "r") as file:
                yield file
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = " ".join(str(error).strip("'\"").split())[:120]
            raise Unreadable(f"it is no whole HDF5 file: {reason}") from None


def _data_sets(file: Any) -> tuple[Any, Any]:
    """The data sets of features, and of coordinates or None."""
    features = next((own for name in FEATURES if (own := _own(file, name)) is not None), None)
    if features is None:
        keys = ", ".join(map(show, list(file)[:5])) or "nothing"
        raise Unreadable(f"it has no data set `features` or `feats`, only {keys}")
    if features.dtype.kind != "f":
        raise Unreadable(f"its features are of type {features.dtype}, not floating-point numbers")
    return features, _own(file, COORDS)


def _own(file: Any, name: str) -> Any:
    """A data set whose numbers lie in the file itself, or None."""
    import h5py

    if name not in file or not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    data = file[name]
    return None if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external else data


def _origin(file: Any, features: Any, coords: Any) -> FeatureOrigin:
    """What made the features, by the attributes that STAMP and TRIDENT write."""
    own, place = dict(file.attrs), dict(coords.attrs) if coords is not None else {}
    stating = [at[key] for at in (own, dict(features.attrs)) for key in ("extractor", "encoder") if key in at]
    encoder = next(map(_text, stating), "")
    pixels = _number(own, "tile_size_px") or _number(place, "patch_size")
    microns = _number(own, "tile_size_um")
    if microns is None and _text(own.get("unit", "")) == "um":
        microns = _number(own, "tile_size")  # STAMP before 2.1
    magnification = _number(place, "target_magnification")
    if microns is None and magnification and pixels:
        microns = pixels * MPP_AT_1X / magnification
    return FeatureOrigin(encoder[:60], tile_text(pixels, microns))


def tile_text(pixels: float | None, microns: float | None) -> str:
    """What a tile of so many pixels and microns a side is called; "" where nothing is known of its scale."""
    if microns is None:
        return ""
    return f"{pixels:g} px at {microns / pixels:.3g} mpp" if pixels else f"{microns:.4g} microns"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


def _number(attributes: Mapping[str, Any], key: str) -> float | None:
    """A positive number among attributes."""
    try:
        value = float(attributes[key])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None
