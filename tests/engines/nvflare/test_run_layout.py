"""A run folder that somebody else may have made names nothing that is removed, written or started."""

import json
from pathlib import Path

import pytest

from medfl.engines.nvflare.run_layout import Laid, kit_of, laid_before, scratch
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.runs.folder import RunFolder
from tests.tiny import write_tiny

RUN = "ab" * 16


@pytest.fixture
def given(tmp_path) -> RunFolder:
    """A run folder with the files of an engine."""
    folder = RunFolder(tmp_path / "given")
    (folder.path / "engine").mkdir(parents=True)
    folder.pipeline.write_bytes(write_tiny(tmp_path).read_bytes())
    return folder


def laid(folder: RunFolder) -> Laid:
    return Laid("poc", RUN, folder, load_pipeline(folder.pipeline))


def engine(folder: RunFolder, **facts: object) -> None:
    folder.engine.write_text(json.dumps({"engine": "kit", "run": RUN, "kit": "/kits/evil", **facts}))


def test_a_folder_that_scratch_names_stays_unless_it_is_this_runs(given, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = tmp_path / "medfl-mine"
    (other / "data").mkdir(parents=True)
    (given.path / "engine" / "scratch").write_text(str(other))
    with scratch(laid(given)) as own:
        (given.path / "engine" / "copy").write_bytes((given.path / "engine" / "scratch").read_bytes())
        left = Path(own).rename(tmp_path / "medfl-left")
        (tmp_path / own.name).mkdir()
    assert (other / "data").is_dir()
    (given.path / "engine" / "scratch").write_text(str(left))  # as a killed run leaves it
    with scratch(laid(given)):
        assert not left.exists()


def test_a_kit_counts_where_this_user_has_begun_the_run_with_it(given, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDFL_CACHE", str(tmp_path / "cache"))
    engine(given)
    with pytest.raises(MedflError, match=r"names the kit /kits/evil, whose programs .*medfl deploy serve /kits/evil"):
        laid_before(given.path)
    with pytest.raises(MedflError, match="another kit"):
        laid_before(given.path, Path("/kits/mine"))
    assert kit_of(RUN) is None
    assert laid_before(given.path, Path("/kits/evil")).kit == Path("/kits/evil")
    assert laid_before(given.path).kit == Path("/kits/evil")


@pytest.mark.parametrize("facts", [{"engine": "x"}, {"run": "../../x"}, {"run": 5}, {"kit": None}, {"kit": 5}])
def test_an_engine_file_that_is_none_is_a_sentence(given, facts):
    engine(given, **facts)
    with pytest.raises(MedflError, match=r"engine\.json is damaged"):
        laid_before(given.path)


def test_a_link_in_the_engines_folder_is_refused(given, tmp_path):
    engine(given)
    (given.path / "engine" / "server").symlink_to(tmp_path)
    with pytest.raises(MedflError, match="server is a link, and all that a run writes stays in its folder"):
        laid_before(given.path)
