"""A CSV of source groups."""

import re
from pathlib import Path

from tests.data.sources.reading import refused
from tests.datafiles import (
    write_csv,
    write_lc25000,
)


def test_bad_source_group_tables(tmp_path: Path) -> None:
    root = write_lc25000(tmp_path / "lc", tiles=1, copies=3, groups=False)
    header = ("label", "filename", "source_group")
    table = write_csv(tmp_path / "g.csv", header, [("colon_aca", "colonaca1.png", "a")])
    assert re.search(
        r"14 of 15 images have no row in .*g.csv.*first is colon_aca/colonaca2.png", refused(root, source_groups=table)
    )
    write_csv(table, header, [("lung_n", "x.png", "a"), ("lung_n", "x.png", "b")])
    assert re.search(r"line 3: lung_n/x.png has two source groups", refused(root, source_groups=table))
    write_csv(table, ("label", "filename", "source_grup"), [])
    assert re.search(r'no column source_group.*"source_grup"', refused(root, source_groups=table))
    write_csv(table, header, [("lung_n", "x.png", "")])
    assert "line 2: the cell under source_group is empty" in refused(root, source_groups=table)
    assert "names" in refused(root, source_groups=tmp_path / "absent.csv")
    table.write_bytes(b"label,filename,source_group\n\xff\xfe\x00")
    assert "cannot be read as CSV" in refused(root, source_groups=table)
