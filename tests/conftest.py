"""Settings of the whole suite: one thread (tiny networks are fastest on one), and nothing of the user's is touched."""

import functools
import gc
import os
import sys

import pytest
import typer.main
import typer.testing

# Imports are compiled once for all processes of the suite, also where the environment says not to keep bytecode.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # tests run side by side: a thread that waits leaves the core to them

# Typer reads the signatures of all commands anew whenever a test calls one: a tenth of a second.
typer.main.get_command = typer.testing._get_command = functools.cache(typer.main.get_command)

# The libraries are a million objects that live to the end. Python would look through them again and again for garbage,
# while they are imported and after: a quarter of the suite's time.
gc.disable()


def pytest_collection_modifyitems(items):
    """What takes long is begun first, so that at the end no process is left alone with it."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """From here on garbage is looked for, and not among what has been imported."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def pytest_unconfigure():
    """Extension modules that count what is left at the end find what was frozen collected."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _own_world(tmp_path_factory):
    """No test reads or writes the user's cache or tracking server; the cache is content-keyed, so one serves all,
    also those in the suite's other process. What a test writes need not outlast the machine, so nothing waits for
    the disk."""
    os.fsync = lambda file: None
    base = tmp_path_factory.getbasetemp()
    os.environ["MEDFL_CACHE"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")
    os.environ["MEDFL_SESSION_CACHE"] = os.environ["MEDFL_CACHE"]  # where a room gives each test a cache of its own
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.pop("MEDFL_LC25000", None)
    os.environ.pop("MEDFL_MITOSES", None)


@pytest.fixture(autouse=True)
def _one_thread():
    """A run sets PyTorch's threads for its whole process. PyTorch takes seconds to import, so this does not."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


EMPTY_CHART = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


@pytest.fixture(autouse=True, scope="session")
def _rendering():
    """Rendering forty charts takes seconds: figures are made and not rendered, but where a test asks for `charts`. What
    renders them otherwise."""
    from medfl.report import chart_style  # matplotlib, once the settings above hold

    with pytest.MonkeyPatch.context() as patch:
        rendered = chart_style.rendered
        patch.setattr(chart_style, "rendered", lambda figure: EMPTY_CHART)
        yield rendered


@pytest.fixture(scope="module")
def charts(_rendering):
    """Charts as a reader sees them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medfl.report.chart_style.rendered", _rendering)
        yield
