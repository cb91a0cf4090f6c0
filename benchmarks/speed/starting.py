"""What comes before the first step: rendering patches once, and starting a run whose patches are rendered."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed.figure import Figure
from benchmarks.speed.workload import CLASSES

ROOT = Path(__file__).resolve().parents[2]

FLOOR = """
import time
began = time.perf_counter()
import timm, torch
timm.create_model(BACKBONE, num_classes=5)
print(time.perf_counter() - began)
"""

FIRST_STEP = """
import os, sys, time
began = time.perf_counter()

def stop(*_):
    print(time.perf_counter() - began, file=sys.stderr, flush=True)
    os._exit(0)

import medfl.cli.app
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(stop)
sys.argv = ["medfl", "run", *sys.argv[1:]]
medfl.cli.app.main()
"""

RENDER = """
import json, os, sys, time
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
from pathlib import Path
import numpy as np
import torch
from PIL import Image
torch.set_num_threads(1)
import medfl.data.decode as decoding
from medfl.data.image_file import image_readers
from medfl.data.stain import apply, profile
decoding.WORKERS = 1
paths = sorted(Path(sys.argv[1]).glob("*.jpg"))
stain = profile("violet_rich")

def ours():
    for patch in decoding.decode(image_readers(paths), 224):
        apply(patch.image[None], stain)

def pillow(filter):
    for path in paths:
        np.asarray(Image.open(path).convert("RGB").resize((224, 224), filter))

from benchmarks.speed.figure import interleaved
filters = Image.Resampling.BICUBIC, Image.Resampling.BOX
print(json.dumps(interleaved([ours, *(lambda f=f: pillow(f) for f in filters)], repeats=int(sys.argv[2]))))
"""


SECOND_RUN = """
import os, sys, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook
from medfl.study.execute import carry_out
from medfl.study.study_file import load_study

ended = []

def stop(*_):
    if ended:
        print(time.perf_counter() - ended[0], file=sys.stderr, flush=True)
        os._exit(0)

register_optimizer_step_post_hook(stop)
carry_out(load_study(Path(sys.argv[1])), Path(sys.argv[2]), 1, lambda done: ended.append(time.perf_counter()))
"""


def second_run_of_a_study(repeats: int) -> Iterator[Figure]:
    """From the end of a study's first run to the end of the first local step of its second, on the same sites."""
    import yaml

    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "study.yaml"
        pipeline = str(ROOT / "pipelines" / "quickstart.yaml")
        content = {"name": "two", "pipeline": pipeline, "seeds": [1], "methods": {"fedavg": [], "ecgr": ["ecgr"]}}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        for turn in range(-1, max(3, repeats // 2)):
            done = _python(SECOND_RUN, [str(file), f"{scratch}/study-{turn}"], Path(scratch))
            if turn >= 0:
                seconds.append(float(done.stderr.splitlines()[-1]))
    start = statistics.median(seconds)
    yield Figure(
        "a study's second run, from the end of the first to the end of its first step", "a second", start, target=1.0
    )


def second_start(repeats: int) -> Iterator[Figure]:
    """From the start of `medfl run pipelines/quickstart.yaml` to the end of the first local step, patches rendered."""
    import yaml

    pipeline = ROOT / "pipelines" / "quickstart.yaml"
    backbone = yaml.safe_load(pipeline.read_text())["model"]["backbone"]
    floors, starts = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(-1, repeats):
            done = _python(FLOOR.replace("BACKBONE", repr(backbone)), [], Path(scratch))
            floor = float(done.stdout)
            run = _python(FIRST_STEP, [str(pipeline), "--out", f"{scratch}/run-{turn}"], Path(scratch))
            if turn >= 0:
                floors.append(floor)
                starts.append(float(run.stderr.splitlines()[-1]))
    start, floor = statistics.median(starts), statistics.median(floors)
    yield Figure(
        "second start of the quickstart, to the end of the first step",
        "importing torch and timm and creating the model",
        start / floor,
        target=1.5,
        detail={"start_s": start, "import_s": floor},
    )


def rendering(repeats: int) -> Iterator[Figure]:
    """JPEG files of drawn tissue, 768 px, to stained patches of 224 px, on one core."""
    from PIL import Image

    from medfl.data.synthetic.tissue import draw_tile

    with tempfile.TemporaryDirectory() as scratch:
        for number, label in enumerate(CLASSES):
            tile = draw_tile(label, seed=0, index=0, size=768)[:768, :768]
            for quarter in range(4):
                Image.fromarray(tile).rotate(90 * quarter).save(f"{scratch}/{number}-{quarter}.jpg", quality=90)
        done = _python(RENDER, [scratch, str(repeats)], ROOT)
    ours, *pillow = json.loads(done.stdout)
    files = 4 * len(CLASSES)
    for seconds, name, target in zip(pillow, ("bicubic, its default", "box"), (0.5, None), strict=True):
        yield Figure(
            "rendering at 224 px from JPEG of 768 px, stain included, images/s on one core",
            f"decoding and resizing alone with Pillow ({name})",
            seconds / ours,
            target=target,
            at_least=True,
            detail={"medfl_ms": 1e3 * ours / files, "pillow_ms": 1e3 * seconds / files},
        )


def _python(code: str, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
