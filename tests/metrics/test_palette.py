"""Every picture's colours are told apart by every eye, and no other colours are in use."""

import itertools
import re

import numpy as np
import pytest

from medfl.data import preview
from medfl.metrics.palette import APART, DARK, LIGHT, SERIES
from medfl.report.chart_style import TOKENS
from medfl.report.html_page import PageSection, render_page
from tests.paths import ROOT

EYES = {  # Machado, Oliveira, Fernandes 2009, severity 1, on linear sRGB
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x = XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("eye", EYES)
def test_series_are_told_apart(colours, eye):
    for names in ([f"c{i}" for i in range(8)], ["before", "after", "mark"]):
        seen = {name: lab(EYES[eye] @ linear(colours[name])) for name in names}
        for one, other in itertools.combinations(names, 2):
            assert np.linalg.norm(seen[one] - seen[other]) >= APART, (one, other)


def test_pages_and_previews_have_these_colours_and_no_others():
    page = render_page("t", [PageSection("k", "s", "")])
    assert set(re.findall(r"#[0-9a-f]{6}\b", page)) == {*LIGHT.values(), *DARK.values()}
    assert set(TOKENS) <= LIGHT.keys() == DARK.keys()
    assert preview.COLOURS is SERIES
    for path in (ROOT / "medfl" / "report").rglob("*.css"):
        assert not re.search(r"#[0-9a-fA-F]{3,6}\b", path.read_text()), path
