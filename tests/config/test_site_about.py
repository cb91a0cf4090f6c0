"""What a site says of its data: free text without places of a machine, read from its file, and no part of a run."""

import pytest

from medfl.config import Pipeline, SiteConfig
from medfl.config.yaml_file import validate
from medfl.engines.remote.party_files import read_pipeline, write_server
from medfl.errors import MedflError


def about(file, **words):
    return validate(SiteConfig, {"name": "north", "about": words}, file)


@pytest.mark.parametrize(
    "text",
    [
        "H&E/IHC, male/female, IRB 2024/123a and/or EK-12/7",
        "https://doi.org/10.1136/bmj-2023-078378 (page 3/4)",
        "x40 at 0.25 um/px; n/a; c: see annex",
    ],
)
def test_words_are_kept(tmp_path, text):
    assert about(tmp_path / "site.yaml", ethics=text).about.ethics == text


@pytest.mark.parametrize(
    "text",
    [
        "scans in /data",
        "/srv/x/y",
        "(~/scans)",
        r"C:\scans",
        r"\\server\share",
        "see ../x",
        "file:x",
        "https://me:secret@host/x",
    ],
)
def test_a_path_or_a_password_is_refused_with_its_key(tmp_path, text):
    with pytest.raises(MedflError, match=r"`about\.owner`: this goes into a dossier .* write it without"):
        about(tmp_path / "site.yaml", owner=text)


def test_lines_are_joined_blank_is_no_answer_and_a_number_needs_quotes(tmp_path):
    site = about(tmp_path / "site.yaml", owner="One\n  hospital ", contact="  ", period=None)
    assert site.about.model_dump(exclude_none=True) == {"owner": "One hospital"}
    with pytest.raises(MedflError, match=r"about\.period.*quotes"):
        about(tmp_path / "site.yaml", period=2024)
    with pytest.raises(MedflError, match=r'about\.scaner.*"scanner"'):
        about(tmp_path / "site.yaml", scaner="x")


def test_a_file_without_it_resolves_as_it_did():
    assert "about" not in SiteConfig(name="north").model_dump(mode="json", exclude_none=True)


def test_the_server_of_sites_elsewhere_is_told(tmp_path):
    stated = {"name": "north", "about": {"owner": "A hospital"}}
    given = {
        "name": "tiny",
        "task": {"classes": ["a", "b"]},
        "data": {"source": "folder", "mode": "own"},
        "sites": {"train": [stated]},
        "model": {"backbone": "test_resnet"},
        "training": {"rounds": 1, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    write_server(tmp_path, Pipeline.model_validate(given), "run", None)
    assert read_pipeline(tmp_path).train_sites[0].about.owner == "A hospital"
