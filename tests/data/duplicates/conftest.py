"""A tile, and commands as they are typed."""

import numpy as np
import pytest

from medfl.cli.app import app
from medfl.data.synthetic.tissue import draw_tile
from tests.data.duplicates.windows import SIZE


@pytest.fixture(scope="module")
def tile() -> np.ndarray:
    """A large tile, so that no window meets its border."""
    return draw_tile("colon_aca", 3, 0, 2 * SIZE)


@pytest.fixture
def cli(capsys):
    """Run a command as it would be typed; returns what it prints, errors pass."""

    def run(*words: object) -> str:
        capsys.readouterr()
        app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    return run
