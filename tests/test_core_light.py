"""The training core needs torch, torchvision, timm, safetensors and numpy only."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = '''
import sys
from importlib.machinery import ModuleSpec

class Wall:
    """Lets others ask whether a package exists (torch does), and refuses to load it."""
    blocked = {"monai", "mlflow", "pydantic", "albumentations", "sklearn", "matplotlib", "typer"}
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in self.blocked else None
    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked")
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Wall())
import torch
torch.set_num_threads(1)
from tests.toys import toy_run
state, records = toy_run(["ecgr", "fedprox"], rounds=2)
assert state.round == 3, state.round
assert records[1]["counted"]
print("two rounds")
'''


def test_two_rounds_without_the_outer_packages():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "two rounds", done.stderr
