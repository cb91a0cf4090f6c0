"""Makes docs/api.md from docstrings, and docs/notebooks/library.ipynb from docs/library.md: `python docs/generate.py`.

A test compares both with what this makes now.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import griffe

import medfl

DOCS = Path(__file__).parent
WIDTH = 120
HEAD = """# API

What `import medfl` offers, made from the docstrings by `python docs/generate.py`. How it is used:
[library.md](library.md). What may be added: [extend.md](extend.md). Shapes: N patches, H x W pixels, C classes;
u8, i64, f32 and f64 are the types of NumPy and PyTorch. `PipelineLike` is a path or a mapping, `Say` a function of
a line of text. Whatever is raised is one sentence that says what to do.
"""


def api_page() -> str:
    """docs/api.md."""
    homes = {name: medfl._HOMES[name] for name in medfl.__all__}
    modules = {home: _module(home) for home in homes.values()}
    parts = [HEAD, "\n".join(f"- [`medfl.{name}`](#medfl{name.lower()})" for name in homes), ""]
    for name, home in homes.items():
        parts += list(_described(modules[home][name], f"medfl.{name}"))
    return "\n".join(parts).rstrip() + "\n"


def _module(name: str) -> griffe.Module:
    file = DOCS.parent.joinpath(*name.split(".")).with_suffix(".py")
    return griffe.visit(name, file, file.read_text(encoding="utf-8"), docstring_parser="google")


def _described(thing: Any, name: str) -> Iterable[str]:
    yield f"## medfl{name.removeprefix('medfl')}\n"
    if not thing.is_class:
        yield from _signature(thing, name)
        yield from _sections(thing)
        return
    names = thing.module.members
    bases = [names[str(base)] for base in thing.bases if str(base) in names and not names[str(base)].is_alias]
    members = {key: member for part in (*bases, thing) for key, member in part.members.items()}
    if "__init__" in members:
        yield from _signature(members["__init__"], name, of_class=True)
    yield from _sections(thing)
    for member in members.values():
        is_property = "property" in member.labels
        if member.name.startswith("_") or not member.docstring or not (member.is_function or is_property):
            continue
        if is_property:
            yield f"### {name.split('.')[-1]}.{member.name}\n\n`{member.name}: {member.annotation}`\n"
        else:
            yield f"### {name.split('.')[-1]}.{member.name}()\n"
            yield from _signature(member, member.name, of_class=True)
        yield from _sections(member)


def _signature(function: Any, name: str, of_class: bool = False) -> Iterable[str]:
    """The call, on one line where it fits."""
    parameters, star = [], False
    for parameter in function.parameters:
        if of_class and parameter.name in ("self", "cls"):
            continue
        kind = parameter.kind
        if kind is griffe.ParameterKind.keyword_only and not star:
            parameters.append("*")
            star = True
        mark = {griffe.ParameterKind.var_keyword: "**", griffe.ParameterKind.var_positional: "*"}.get(kind, "")
        default = "" if parameter.default is None or mark else f" = {parameter.default}"
        note = f": {parameter.annotation}" if parameter.annotation else ""
        parameters.append(f"{mark}{parameter.name}{note}{default}")
    returns = f" -> {function.returns}" if function.returns and function.name != "__init__" else ""
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) > WIDTH:
        inner = "".join(f"    {parameter},\n" for parameter in parameters)
        line = f"{name}(\n{inner}){returns}"
    yield f"```text\n{line}\n```\n"


def _sections(thing: Any) -> Iterable[str]:
    """A docstring as Markdown."""
    titles = {"parameters": "Arguments", "attributes": "Attributes", "raises": "Raises"}
    for section in thing.docstring.parsed if thing.docstring else []:
        kind = section.kind.value
        if kind == "text":
            yield _links(section.value) + "\n"
        elif kind in ("parameters", "attributes"):
            rows = [f"- `{item.name}`: {_line(item.description)}" for item in section.value]
            yield f"{titles[kind]}:\n\n" + "\n".join(rows) + "\n"
        elif kind == "raises":
            rows = [f"- `{item.annotation}`: {_line(item.description)}" for item in section.value]
            yield "Raises:\n\n" + "\n".join(rows) + "\n"
        elif kind == "returns":
            yield "Returns: " + _line(" ".join(item.description for item in section.value)) + "\n"


def _line(text: str) -> str:
    return _links(" ".join(text.split()))


def _links(text: str) -> str:
    """Pages of the documents as links."""
    return re.sub(r"docs/(\w[\w-]*\.md)", r"[\1](\1)", text)


def notebook() -> str:
    """docs/notebooks/library.ipynb: the prose of docs/library.md, and its blocks of Python as cells."""
    text = (DOCS / "library.md").read_text(encoding="utf-8")
    cells = []
    for part in re.split(r"(^```python\n.*?^```\n)", text, flags=re.MULTILINE | re.DOTALL):
        code = re.fullmatch(r"```python\n(.*?)```\n", part, flags=re.DOTALL)
        body = code[1].strip() if code else re.sub(r"\]\((?!https?:)([\w/.-]+)", r"](../\1", part).strip()
        if not body:
            continue
        cell: dict[str, Any] = {"cell_type": "code" if code else "markdown", "id": f"cell-{len(cells)}", "metadata": {}}
        cell |= {"execution_count": None, "outputs": []} if code else {}
        cells.append(cell | {"source": body.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


FILES = {DOCS / "api.md": api_page, DOCS / "notebooks" / "library.ipynb": notebook}

if __name__ == "__main__":
    for file, made in FILES.items():
        file.write_text(made(), encoding="utf-8")
