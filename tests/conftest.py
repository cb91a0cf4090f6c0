"""Settings of the whole suite: one thread (tiny networks are fastest on one), and nothing of the user's is touched."""

import os
import sys

import pytest

# Imports are compiled once for all processes of the suite, also where the environment says not to keep bytecode.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_world(tmp_path_factory):
    """No test reads or writes the user's cache or tracking server; the cache is content-keyed, so one serves all."""
    os.environ["MEDFL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.pop("MEDFL_LC25000", None)


@pytest.fixture(autouse=True)
def _one_thread():
    """A run sets PyTorch's threads for its whole process. PyTorch takes seconds to import, so this does not."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
