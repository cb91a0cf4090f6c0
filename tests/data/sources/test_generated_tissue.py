"""Generated tissue as a source."""

from pathlib import Path

import numpy as np
import pytest

from medfl.data.catalog import pipeline_catalog, site_catalog
from medfl.errors import MedflError
from tests.datafiles import (
    pipeline,
    site,
)


def test_generated_tissue_is_no_own_data() -> None:
    made = pipeline([site("here")], source="tissue", mode="own")
    with pytest.raises(MedflError, match=r"site here: `data.source` is not stated"):
        site_catalog(made, made.train_sites[0])


def test_generated_tissue_is_written_once_and_read_as_lc25000(tmp_path: Path) -> None:
    made = pipeline(
        [site("here")], source="tissue", cache=tmp_path, tissue={"tiles_per_class": 2, "copies": 2, "size": 32}
    )
    catalog = pipeline_catalog(made)
    assert np.bincount(catalog.labels).tolist() == [4] * 5
    assert len(catalog.group_names) == 10
    (folder,) = tmp_path.glob("tissue-*")
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpeg")}
    again = pipeline_catalog(made)
    assert again.references == catalog.references
    assert again.source.place == catalog.source.place == str(folder)
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpeg")}
