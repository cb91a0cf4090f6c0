"""The software that makes a number reproducible."""

from __future__ import annotations

import platform

from medfl.distribution import installed_version

PACKAGES = ("medfl", "torch", "torchvision", "timm", "numpy")


def versions() -> dict[str, str]:
    """Versions of the packages and of Python, and what computes."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    packages = {name: installed_version(name) for name in PACKAGES}
    return packages | {"python": platform.python_version(), "device": device}
