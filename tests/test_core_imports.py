"""The training core needs torch, torchvision, timm, safetensors and numpy only."""

import subprocess
import sys

from tests.paths import ROOT
from tests.wall import walled

OUTER = ("monai", "mlflow", "pydantic", "albumentations", "sklearn", "matplotlib", "typer")
SCRIPT = """
import torch
torch.set_num_threads(1)
from tests.toys import toy_run
state, records = toy_run(["ecgr", "fedprox"], rounds=2)
assert state.round == 3, state.round
assert records[1]["counted"]
print("two rounds")
"""


def test_two_rounds_without_the_outer_packages():
    command = [sys.executable, "-c", walled(SCRIPT, *OUTER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "two rounds", done.stderr
