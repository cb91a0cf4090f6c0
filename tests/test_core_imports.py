"""What is imported, and no more: the training core needs torch, torchvision, timm, safetensors and numpy only, and a
command what it uses."""

import subprocess
import sys

import pytest

from tests.datafiles import own_folder
from tests.paths import ROOT
from tests.tiny import write_tiny
from tests.wall import walled

NEVER = ("mlflow", "monai", "albumentations", "sklearn", "pandas", "nvflare", "onnx", "opacus")
HEAVY = (*NEVER, "torch", "torchvision", "timm", "matplotlib", "scipy", "cv2")
OUTER = (*NEVER, "pydantic", "matplotlib", "typer")
CALL = """
from medfl.cli import app

def call(*arguments):
    sys.argv = ["medfl", *arguments]
    try:
        app.main()
    except SystemExit as done:
        assert not done.code, arguments
"""
CORE = """
import torch
torch.set_num_threads(1)
from tests.toys import toy_run
state, records = toy_run(["ecgr", "fedprox"], rounds=2)
assert state.round == 3, state.round
assert records[1]["counted"]
print("two rounds")
Wall.blocked -= {"pydantic", "typer", "sklearn"}  # sklearn draws the splits
"""
WITH_TORCH = """
call("run", {pipeline!r}, "--out", "r")
call("run", {pipeline!r}, "--dry-run")
call("predict", "r", {images!r}, "--out", "p.csv")
call("evaluate", "r")
call("track", "--help")
print("commands")
"""
WITHOUT = """
call("--version")
call("backbones")
call("init", "site", "--data", {images!r}, "--out", "site.yaml")
call("init", "pipeline", "--train", "site.yaml", "--out", "first.yaml")
call("cache", "ls", ".")
Wall.blocked -= {{"sklearn", "scipy"}}  # sklearn draws the splits
call("data", "check", {pipeline!r}, "--no-copies")
Wall.blocked -= {{"matplotlib"}}
import medfl.report.run_report, medfl.runs.folder  # the rest of a page is text
print("commands")
"""


@pytest.fixture
def place(tmp_path):
    """Where a command runs: files of a pipeline and of a folder of images."""
    images = own_folder(tmp_path / "images", {"adeno": 0, "normal": 1}, seed=0)
    return {"pipeline": str(write_tiny(tmp_path)), "images": str(images)}, tmp_path


def walk(script: str, packages: tuple[str, ...], folder) -> list[str]:
    """The lines that a script prints which cannot import these packages."""
    command = [sys.executable, "-c", walled(f"sys.path.insert(0, {str(ROOT)!r})\n{script}", *packages)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_rounds_and_commands_without_the_outer_packages(place):
    files, folder = place
    lines = walk(CORE + CALL + WITH_TORCH.format(**files), OUTER, folder)
    assert lines[0] == "two rounds"
    assert lines[-1] == "commands"


def test_commands_that_train_nothing_import_nothing_heavy(place):
    files, folder = place
    assert walk(CALL + WITHOUT.format(**files), HEAVY, folder)[-1] == "commands"
