"""What medfl is called where packages are installed: on the public package index, `medfl` is another project."""

from __future__ import annotations

from importlib.metadata import version

NAME = "medfl-pathology"


def installed_version(package: str = "medfl") -> str:
    """The version of a package that is installed, medfl's own by default.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return version(NAME if package == "medfl" else package)


def install_extra(extra: str) -> str:
    """The commands that add an extra to the medfl that is installed, in words."""
    return f'`pip install "{NAME}[{extra}]"`, or `uv sync --extra {extra}` in a copy of the repository'
