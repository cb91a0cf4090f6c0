"""One picture of all sites."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfl.data.preview import preview
from medfl.errors import MedflError
from tests.data.rendering import render_all
from tests.datafiles import (
    pipeline,
    site,
    write_lc25000,
)


def test_preview_shows_a_row_of_patches_per_site(tmp_path: Path) -> None:
    root = write_lc25000(tmp_path / "lc", tiles=6, copies=1, size=32)
    made = pipeline([site("a", patches=10), site("b", patches=10)], [site("c", patches=5)], root=root, size=32)
    stores = list(render_all(made).values())
    preview(stores, tmp_path / "sites.png", made, per_site=5)
    shown = np.asarray(Image.open(tmp_path / "sites.png"))
    assert shown.ndim == 3
    assert (shown[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()  # a white page
    for row in range(3):  # 25 pixels of margin, then 22 of label, 100 of patches and 8 of gap a site
        top = 25 + row * 130 + 22
        patches = shown[top : top + 100, -25 - 5 * 108 + 8 : -25]
        assert patches.std() > 50
        assert (patches[:, 100:108] == 255).all()  # the gap between two patches
    with pytest.raises(MedflError, match="cannot be written"):
        preview(stores, tmp_path / "absent" / "sites.png", made)


def test_class_names_are_no_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = write_lc25000(tmp_path / "lc", tiles=6, copies=1, size=32)
    made = pipeline([site("a", patches=10)], [site("c", patches=5)], root=root, size=32)
    stores = list(render_all(made).values())
    odd = [f"{name} $\\frac$\x00\x1b[31m🧬" + "x" * 300 for name in made.task.classes]
    named = made.model_copy(update={"task": made.task.model_copy(update={"classes": odd})})
    preview(stores, tmp_path / "sites.png", named, per_site=3)
    assert Image.open(tmp_path / "sites.png").width < 1000
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]
