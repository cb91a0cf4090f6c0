"""Pipelines and stores for tests of rendering."""

from pathlib import Path

from medfl.data.partition import make_partition
from medfl.data.patch_store import PatchStore
from medfl.data.render import render
from tests.datafiles import (
    pipeline,
    site,
)


def render_all(made, **options) -> dict[str, PatchStore]:
    by_name = {entry.name: entry for entry in made.all_sites}
    return {share.site: render(made, by_name[share.site], share, **options) for share in make_partition(made).sites}


def own(root: Path, **keys):
    """A pipeline whose only site is held out and brings the folder `root`."""
    return pipeline([], [site("here", root, "folder", **keys.pop("site", {}))], mode="own", **keys)
