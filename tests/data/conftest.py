"""Data that several tests of this folder read."""

from pathlib import Path

import pytest

from tests.data.dealing import TWO
from tests.datafiles import write_folders, write_lc25000


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 40 images, 20 tiles of 2 copies each."""
    return write_lc25000(tmp_path_factory.mktemp("tiles"), tiles=20, copies=2, classes=TWO, size=2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache for every test."""
    monkeypatch.setenv("MEDFL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A site's own folder of two classes."""
    return write_folders(tmp_path / "own", {"lung_aca": 6, "lung_n": 6})
