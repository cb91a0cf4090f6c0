"""The software that makes a number reproducible."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import version

from medfl.errors import DISTRIBUTION

PACKAGES = ("medfl", "torch", "torchvision", "timm", "numpy")


@functools.cache
def installed_version(package: str = "medfl") -> str:
    """The version of a package that is installed, medfl's own by default.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return version(DISTRIBUTION if package == "medfl" else package)


def versions() -> dict[str, str]:
    """Versions of the packages and of Python, and what computes."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    packages = {name: installed_version(name) for name in PACKAGES}
    return packages | {"python": platform.python_version(), "device": device}
