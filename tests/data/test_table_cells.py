"""Texts that a spreadsheet would carry out are neutralised, and read back as they were."""

import csv
import random
from pathlib import Path

from medfl.data.sources.csv_table import read_rows
from medfl.data.table_cells import natural, neutral
from medfl.data.table_file import open_table


def test_formulas_are_neutral_and_numbers_stay() -> None:
    for text in ("=HYPERLINK(1)", "+x", "-x", "@x", "\t=1", "'=x", "＝x"):
        assert neutral(text) == f"'{text}"
        assert natural(f"'{text}") == text
    for cell in ("-1", "+0.5", "-1e-5", -3, 0.25, None, "x=1", "", "'", "p-1", "'x"):
        assert neutral(cell) == cell
        assert natural(str(cell)) == str(cell)


def test_any_text_comes_back(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choice("=+-@'ab1, \"") for _ in range(rng.randint(1, 6))).strip() + "x" for _ in range(300)]
    with open_table(tmp_path / "t.csv", ("path", "source_group")) as writer:
        writer.writerows((text, "g") for text in texts)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert not any(row[0].startswith(tuple("=+-@")) for row in csv.reader(file))
    rows = read_rows(tmp_path / "t.csv", "x", [("path", "source_group")])
    assert [row["path"] for row in rows] == texts
