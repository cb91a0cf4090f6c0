"""The libraries that whole slides need, an extra of this package: imported at first use, or asked for in a sentence."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from medfl.errors import MedflError, install_extra


def slide_library(name: str) -> Any:
    """The module `openslide`, `shapely` or `tifffile`. Raises MedflError where the extra is not installed."""
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # OpenSlide's own library may be missing behind its Python package
        raise MedflError(
            f"whole slides need {name}, which cannot be imported ({error}); install it with {install_extra('slides')}"
        ) from None
