"""Catalogs of one site for tests of sources."""

from pathlib import Path

import pytest

from medfl.data.catalog import Catalog, site_catalog
from medfl.errors import MedflError
from tests.datafiles import (
    pipeline,
    site,
)


def read(root: Path, labels: dict[str, str] | None = None, **data: object) -> Catalog:
    made = pipeline([site("here", labels=labels or {})], mode="own", root=root, **data)
    return site_catalog(made, made.train_sites[0])


def refused(root: Path, labels: dict[str, str] | None = None, **data: object) -> str:
    with pytest.raises(MedflError) as error:
        read(root, labels, **data)
    return str(error.value)


def facts(catalog: Catalog) -> list[tuple[str, str, str]]:
    rows = zip(catalog.names, catalog.labels, catalog.groups, strict=True)
    return [(name, catalog.classes[label], catalog.group_names[group]) for name, label, group in rows]
