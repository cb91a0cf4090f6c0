"""YAML files: whatever a file holds, it is read or refused in a sentence."""

import os
import random
from pathlib import Path

import pytest

from medfl.config.yaml_file import MAX_BYTES, read_mapping
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline, load_site
from tests.paths import ROOT

PIPELINES = sorted((ROOT / "pipelines").rglob("*.yaml"))
SITES = sorted((ROOT / "site_configs").glob("*.yaml"))
PIECES = (
    *("!!int x", "!!bool x", "!!timestamp x", "!!float ", "!!binary x", "!!set {a}", "!!omap [a]", "!<", "!", "!!str "),
    *("<<: 1\n", "<<: [1]\n", "<<: {a: 1}\n", "=", "?", ": ", "- ", "\t", "\0", "\x85", "\udcff", "&a ", "*a", "---\n"),
    *("...\n", "%YAML 9.9\n", '"', "'", "{", "}", "[", "]", "|", ">", "[" * 150, "? [a]\n: b\n", '"\\0"', '"\\x1b[2J"'),
    *(
        "2001-99-99",
        "0x",
        "0b_",
        "1_",
        "1:99",
        "_",
        ".inf",
        "1e400",
        "no",
        "on: ",
        "~",
        "~nobody/x",
        "9" * 5000,
        "[x: ",
    ),
)


def demo(tmp_path: Path, classes: str = "[a, b]", name: str = "here", labels: str = "{}", more: str = "") -> Path:
    """A small pipeline with these texts in it."""
    file = tmp_path / "demo.yaml"
    file.write_text(
        f"name: demo\ntask: {{classes: {classes}}}\ndata: {{source: folder, root: x}}\n"
        f"sites:\n  train:\n  - name: {name}\n    labels: {labels}\nmodel: {{backbone: test_resnet}}\n"
        f"training: {{rounds: 1}}\n{more}"
    )
    return file


def refused(file: Path) -> str:
    with pytest.raises(MedflError) as error:
        load_pipeline(file)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("no", 'put the word into quotes, "no"'),
        ("On", 'put the word into quotes, "no"'),
        ("null", 'put the word into quotes, "null"'),
        ("1.0", 'put it into quotes, "1.0"'),
        ("2020-01-31", 'put it into quotes, "2020-01-31"'),
        ("!!str no", "a text in quotes"),
    ],
)
def test_words_that_yaml_takes_for_something_else_are_to_be_quoted(text: str, remedy: str, tmp_path: Path) -> None:
    assert remedy in refused(demo(tmp_path, classes=f"[a, {text}]"))
    assert remedy in refused(demo(tmp_path, labels=f"{{{text}: a}}"))
    if text != "null":  # that leaves a class out
        assert remedy in refused(demo(tmp_path, labels=f"{{x: {text}}}"))
    assert load_pipeline(demo(tmp_path, classes='["no", "1.0"]')).task.classes == ["no", "1.0"]


def test_a_key_is_named_as_it_stands_and_shows_what_it_is(tmp_path: Path) -> None:
    assert "`[x` is not a key of this file" in refused(demo(tmp_path, more='"[x": 1\n'))
    assert "`a\\nb` is not a key of this file" in refused(demo(tmp_path, more='"a\\nb": 1\n'))
    assert "small letters, digits and hyphens, at most 63" in refused(demo(tmp_path, name="North"))
    assert len(refused(demo(tmp_path, name="x" * 5000))) < 500


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            "tracking: null\n",
            "`tracking`: a section belongs here (here: None), `tracking: {...}` with keys of enabled,",
        ),
        (
            "adapt: batch\n",
            "`adapt`: a section belongs here (here: 'batch'), `adapt: {...}` with keys of patches, remedy",
        ),
        ("method: ecgr\n", "`method`: a list belongs here (here: 'ecgr'), `method: [...]`"),
    ],
)
def test_one_value_in_place_of_a_section_or_a_list(more: str, words: str, tmp_path: Path) -> None:
    assert words in refused(demo(tmp_path, more=more))


def test_sites_whose_names_differ_in_spelling_only_are_refused(tmp_path: Path) -> None:
    message = refused(demo(tmp_path, name="ward-1\n  - name: ward-01"))
    assert "the sites ward-1 and ward-01 differ in spelling only" in message


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "large"])
def test_only_regular_files_of_bounded_size_are_read(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "folder":
            file.mkdir()
        case "loop":
            file.symlink_to(file)
        case "large":
            file.touch()
            os.truncate(file, MAX_BYTES + 1)
    for read in (load_pipeline, load_site):
        with pytest.raises(MedflError, match=r"x\.yaml (cannot be read: |is larger than 2 MB)"):
            read(file)


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: a\ndescription: caf\xe9\n")
    with pytest.raises(MedflError, match=r"x\.yaml, line 2: cannot be read as UTF-8"):
        read_mapping(tmp_path / "x.yaml", "site")


def mutated(rng: random.Random, text: str) -> bytes:
    """A file with a few pieces put in, written over, taken out, or put where a value stands."""
    for _ in range(rng.randint(1, 4)):
        at, piece = rng.randrange(len(text) + 1), rng.choice(PIECES)
        match rng.randrange(4):
            case 0:
                text = text[:at] + piece + text[at:]
            case 1:
                text = text[:at] + piece + text[at + len(piece) :]
            case 2:
                text = text[:at] + text[at + rng.randint(1, 20) :]
            case 3:
                at = rng.choice([number for number, letter in enumerate(text) if letter == ":"] or [0]) + 1
                text = f"{text[:at]} {piece}{text[at:]}"
    return text.encode("utf-8", "surrogateescape")


def read_mutants(seeds: range, folder: Path) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        source, read = rng.choice(((PIPELINES, load_pipeline), (SITES, load_site)))
        file = folder / "x.yaml"
        file.write_bytes(mutated(rng, rng.choice(source).read_text(encoding="utf-8")))
        message = ""
        try:
            read(file)
        except MedflError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        assert message.isprintable(), (seed, message)


def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path: Path) -> None:
    read_mutants(range(150), tmp_path)


@pytest.mark.slow
def test_whatever_a_file_holds_it_is_read_or_refused_for_long(tmp_path: Path) -> None:
    read_mutants(range(1000, 31_000), tmp_path)
