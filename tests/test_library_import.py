"""`import medfl` costs nothing, and every name it offers is there."""

import subprocess
import sys

import pytest

import medfl
from tests.paths import ROOT

SCRIPT = """
import sys, medfl
assert "run" in dir(medfl) and "Study" in medfl.__all__
heavy = {"torch", "numpy", "pydantic", "pandas", "timm", "mlflow", "monai"} & sys.modules.keys()
assert not heavy, heavy
print("light")
"""


def test_import_is_light():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "light", done.stderr


def test_every_name_is_there_and_documented():
    for name in medfl.__all__:
        part = getattr(medfl, name)
        assert part.__name__ == name
        assert (part.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = medfl.train
