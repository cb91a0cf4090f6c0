"""What the documents say is what the code does: configuration reference, links, command lines, shipped files."""

import dataclasses
import json
import re
import shlex
import subprocess
import tomllib

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from medfl import config
from medfl.cli.app import app
from medfl.data.stain import PROFILES
from medfl.engines.remote.site_policy import SitePolicy
from medfl.methods.core.registry import built_in_methods, method_class
from medfl.pipeline.load_pipeline import load_pipeline, load_site
from medfl.study.study_file import StudyFile
from tests.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDIES = sorted(p for p in (ROOT / "pipelines" / "studies").rglob("*.yaml") if not p.stem.endswith("base"))
PIPELINES = sorted(set((ROOT / "pipelines").rglob("*.yaml")) - set(STUDIES))
SITE_FILES = sorted((ROOT / "site_configs").glob("*.yaml"))
name_of = {"ids": lambda path: path.name}

# ---------------------------------------------------------------------------------------- the configuration reference

TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "object": "mapping"}
BOUNDS = {
    "exclusiveMinimum": "above {:g}",
    "minimum": "at least {:g}",
    "exclusiveMaximum": "below {:g}",
    "maximum": "at most {:g}",
    "minItems": "at least {:g} items",
    "minLength": "at least {:g} character",
    "pattern": "`{}`",
}


def inner(schema):
    """The schemas inside a union, a list or a mapping; `null` is seen in the default."""
    parts = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    parts += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    return [part for part in parts if part.get("type") != "null"]


def type_of(schema):
    """A JSON schema's type in the words of the reference."""
    if "$ref" in schema:
        return "section"
    if "enum" in schema or "const" in schema:
        return "word"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(part) for part in inner(schema)))
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])} numbers"
    word = "list" if schema["type"] == "array" else TYPES[schema["type"]]
    of = [type_of(part) for part in inner(schema)]
    return f"{word} of {of[0]}" if of and of != ["mapping"] else word


def allowed_by(schema):
    """A JSON schema's limits in the words of the reference; empty when any value of the type will do."""
    words = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if words:
        return ", ".join(f"`{word}`" for word in words)
    fixed = "prefixItems" in schema  # a list of fixed length: the type says so
    limits = [text.format(schema[key]) for key, text in BOUNDS.items() if key in schema and not fixed]
    limits += [allowed_by(part) for part in inner(schema)]
    return ", ".join(dict.fromkeys(limit for limit in limits if limit))


def default_of(field):
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    plain = isinstance(field.default, str) and field.default
    return f"`{field.default if plain else json.dumps(field.default)}`"


def sections(model, at=""):
    """{dotted place: model} of a file's sections, the file itself under ""; sites are the other kind of file."""
    found = {at: model}
    for name, field in model.model_fields.items():
        for part in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(part, type) and issubclass(part, config.ConfigSection) and part is not config.SiteConfig:
                found |= sections(part, f"{at}.{name}".strip("."))
    return found


def tables():
    """{(file, section): {first cell: the other cells}} of docs/configuration.md, from its headings and tables."""
    found, file, section = {}, "", ""
    for line in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            file, section = line[3:].strip(), ""
        elif line.startswith("### "):
            section = line[4:].strip().strip("`").replace("Top level", "")
        elif line.startswith("| `"):
            first, *cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            place = found.setdefault((file, section), {})
            assert first not in place, f"{file}, {section}: {first} stands twice"
            place[first] = cells
    return found


FILES = {"Pipeline file": config.Pipeline, "Site file": config.SiteConfig}
SECTIONS = {(file, at): model for file, top in FILES.items() for at, model in sections(top).items()}


def test_every_section_is_documented_and_no_other():
    assert set(tables()) - {("Pipeline file", "method")} == set(SECTIONS)


@pytest.mark.parametrize(("file", "section"), SECTIONS, ids=lambda part: part or "top")
def test_every_key_is_documented_as_it_is(file, section):
    model = SECTIONS[file, section]
    schema = model.model_json_schema()["properties"]
    documented = tables()[file, section]
    assert [name.strip("`") for name in documented] == list(model.model_fields)
    for name, field in model.model_fields.items():
        kind, default, allowed, meaning = documented[f"`{name}`"]
        assert (kind, default) == (type_of(schema[name]), default_of(field)), name
        assert allowed == (allowed_by(schema[name]) or allowed), name
        assert meaning.endswith("."), name


def test_methods_are_documented_as_they_are():
    documented = tables()["Pipeline file", "method"]
    names = list(dict.fromkeys(key.strip("`").split(".")[0] for key in documented))
    assert set(names) <= set(built_in_methods())
    known = {}
    for name in names:
        for field in dataclasses.fields(method_class(name)):
            known[f"`{name}.{field.name}`"] = f"`{field.default}`"
    assert {key: cells[0] for key, cells in documented.items()} == known
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    headed = re.findall(r"`(\w+)`", " ".join(re.findall(r"^## .*", page, flags=re.MULTILINE)))
    assert set(names) <= set(headed) <= set(built_in_methods())


def test_words_that_are_values_are_documented():
    assert re.findall(r"`(\w+)`", tables()["Site file", ""]["`stain`"][2]) == list(PROFILES)
    for file, section in (("Pipeline file", "data"), ("Site file", "data")):
        assert {"`filename`", "`ignore`"} <= set(re.findall(r"`\w+`", tables()[file, section]["`source_groups`"][2]))


# ------------------------------------------------------------------------------------------- pages, links and commands


def fenced(text):
    """(language, body) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def prose(text):
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, **name_of)
def test_relative_links_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], **name_of)
def test_modules_that_a_page_names_are_there(page):
    rooms = "|".join(folder.name for folder in (ROOT / "medfl").iterdir() if folder.is_dir())
    for name in re.findall(rf"`((?:medfl/)?(?:{rooms})/[\w/]+\.py)`", page.read_text(encoding="utf-8")):
        assert any((base / name).is_file() for base in (ROOT, ROOT / "medfl")), f"{page.name}: {name}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], **name_of)
def test_tests_that_a_page_names_are_there(page):
    for name in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_every_key_of_a_sites_policy_is_documented():
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    part = page[page.index("## The site decides") : page.index("## The audit log")]
    assert re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE) == list(SitePolicy.model_fields)


def test_the_index_lists_every_page():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert listed == {page.name for page in PAGES[1:]} - {"index.md"}


def command_lines(text):
    """(arguments, quoted in prose) of every `medfl ...` of a page."""
    lines = [(line, False) for _, body in fenced(text) for line in body.replace("\\\n", " ").splitlines()]
    lines += [(span, True) for span in re.findall(r"`([^`\n]+)`", prose(text))]
    for line, inline in lines:
        for part in line.split("&&"):
            found = re.match(r"(?:\$ )?(?:[A-Z_0-9]+=\S+ )*(?:uv run )?medfl (.+)", part.strip())
            if found:
                yield shlex.split(found[1], comments=True), inline


@pytest.mark.parametrize("page", PAGES, **name_of)
def test_command_lines_parse(page):
    for arguments, inline in command_lines(page.read_text(encoding="utf-8")):
        shown, command, rest = f"{page.name}: medfl {' '.join(arguments)}", get_command(app), list(arguments)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        if rest == ["--help"] or (inline and not rest):
            continue
        assert not hasattr(command, "commands"), f"{shown}: there is no such command"
        try:
            parameters = command.make_context(command.name, rest).params
        except Exception as error:  # typer brings its own click, whose errors have no public home
            pytest.fail(f"{shown}: {error}")
        pipeline = str(parameters.get("pipeline", ""))
        if pipeline.startswith("pipelines/"):
            load_pipeline(ROOT / pipeline, parameters.get("set_") or [])


def test_scripts_of_the_pages_are_sound_for_bash():
    scripts = [body for page in PAGES for _, body in fenced(page.read_text(encoding="utf-8")) if body[:2] == "#!"]
    assert len(scripts) >= 2
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{script}"
        assert "#SBATCH --signal=B:INT@" in script  # a job ends as with Ctrl-C: every round is kept


@pytest.mark.parametrize("page", PAGES, **name_of)
def test_yaml_examples_are_valid(page):
    for language, body in fenced(page.read_text(encoding="utf-8")):
        example = yaml.safe_load(body) if language == "yaml" else {}
        if "task" in example:
            config.Pipeline.model_validate(example)
        elif "seeds" in example:
            StudyFile.model_validate(example)
        elif "approve" in example:
            SitePolicy.model_validate(example)
        elif "name" in example:
            config.SiteConfig.model_validate(example)


# -------------------------------------------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("path", PIPELINES, **name_of)
def test_shipped_pipelines_load(path):
    assert load_pipeline(path).train_sites


@pytest.mark.parametrize("path", SITE_FILES, **name_of)
def test_shipped_sites_load(path):
    site = load_site(path)
    assert site.name.replace("-", "_") == path.stem
    assert site.role
    assert site.description


def test_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = {body.strip() for _, body in fenced(readme)}
    tests = "pip install uv && uv run pytest"
    assert {"pip install uv && uv run medfl run pipelines/quickstart.yaml", tests} <= blocks
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def tracked():
    """The files under version control; without git, those in the folders that are shipped."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = "medfl", "pipelines", "site_configs", "tests", "docs", "benchmarks"
        files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix != ".pyc"]
        return [*files, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Dockerfile", ROOT / "CITATION.cff"]


def test_no_file_names_a_registry_or_a_place_of_one_machine():
    # in halves, so that this file may be looked at too; tests may name the lock file to prove that it stays behind
    lock = "uv" + ".lock"
    places = ["/wo" + "rk/", "/ro" + "ot/", "pypi.org/" + "simple", "files.python" + "hosted", lock]
    ignores = [ROOT / ".gitignore", ROOT / ".dockerignore"]
    assert all(lock in path.read_text(encoding="utf-8").split() for path in ignores)
    found = []
    for path in tracked():
        if path.is_file() and path.name != lock:
            text = path.read_bytes().decode("utf-8", errors="replace")
            may_lock = path in ignores or "tests" in path.relative_to(ROOT).parts
            found += [f"{path.relative_to(ROOT)}: {p}" for p in places if p in text and not (p == lock and may_lock)]
    assert not found
