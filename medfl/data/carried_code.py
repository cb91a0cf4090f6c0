"""Files of medfl that go along with a model to where there is no medfl, as modules of a package of another name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import medfl.data.normalise
import medfl.data.optics
import medfl.data.transform_names
import medfl.data.transforms
import medfl.errors
import medfl.plain_text

RENDERING = (medfl.data.transforms, medfl.data.transform_names, medfl.errors, medfl.plain_text)
"""What draws patches as `data.render` asks; needs PyTorch, and MONAI or albumentations as the transforms do."""

STAIN = (medfl.data.normalise, medfl.data.optics)
"""What brings patches to the stain that a model was trained in; needs NumPy."""


def carried(modules: Iterable[ModuleType], package: str) -> dict[str, str]:
    """File name -> text of modules that import nothing of medfl but each other, as modules of `package`."""
    files = {}
    for module in modules:
        path = Path(str(module.__file__))
        text = path.read_text(encoding="utf-8")
        files[path.name] = re.sub(r"^(\s*from )medfl\.(?:\w+\.)*(\w+ import )", rf"\1{package}.\2", text, flags=re.M)
    return files
