"""A table is read in the one way that it can be read in, or refused with its line."""

import random
import re
from pathlib import Path

import pytest

from medfl.data.sources.csv_table import OtherTable, Row, read_rows
from medfl.errors import MedflError

COLUMNS = [("path", "label")]
ROWS = [(f"{n}.png", ("adeno", "normal")[n % 2], f"p{n // 2}", "ok") for n in range(36)]


def read(file: Path, content: str | bytes) -> list[Row]:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(file, "site x", COLUMNS, optional=("source_group",))


def refused(file: Path, content: str | bytes) -> str:
    with pytest.raises(MedflError) as error:
        read(file, content)
    assert str(error.value).startswith(f"site x: {file}")
    return str(error.value)


def table(header: str = "path,label,source_group,remark", separator: str = ",", end: str = "\r\n", **cells: str) -> str:
    """The table; `r5="..."` replaces the remark of the row on line 5."""
    lines = [header]
    for line, row in enumerate(ROWS, 2):
        lines.append(separator.join((*row[:3], cells.get(f"r{line}", row[3]))))
    return end.join(lines) + end


@pytest.mark.parametrize(
    "text",
    [
        table(),
        table(end="\n"),
        table(end="\r"),
        "\ufeff" + table(),
        "\n\n" + table("Path, LABEL ,Source Group,x"),
        table("path,label,source-group,"),
        table("path;label;SourceGroup;a, b", ";"),
        table("path\tlabel\tsource_group\tx", "\t"),
        "sep=;\r\n" + table("path;label;source_group;x", ";"),
        '"sep=,"\n' + table("path,label,source_group,a;b;c;d;e"),
        table(r7='"one, two"', r9='"she said ""no"""', r11='5" core'),
        table(r7='"first\nsecond"', r9='"first\r\nsecond"'),  # remarks of two lines are a habit of this table
        table() + "\r\n,,,\r\n\r\n",
        table(r7="ok,,"),  # cells that say nothing
    ],
)
def test_what_spreadsheets_write_is_read_whole(text: str, tmp_path: Path) -> None:
    rows = read(tmp_path / "t.csv", text)
    assert [(row["path"], row["label"], row.get("source_group", "")) for row in rows] == [row[:3] for row in ROWS]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (table(r26='"2nd core'), 26, "a quotation mark opens a cell"),
        (table(r26='"2nd core', r30='"3rd core'), 26, "a quotation mark opens a cell"),
        (table(r26='"2nd core', r30='"'), 26, 'the cell under "remark" goes on in the next line'),
        (table(r26='"2nd core', r27='"', r30='"x', r31='"'), 26, 'the cell under "remark" goes on in the next line'),
        (table(r26='"two\nlines"'), 26, 'the cell under "remark" goes on in the next line'),
        (table(r26='"' + "x" * 200_000), 26, "a quotation mark opens a cell"),
        (table(r26="ok,more"), 26, "it has 5 cells and the header has 4"),
        (table().replace("8.png,adeno,p4,ok", "8.png,adeno,p4"), 10, "it has 3 cells and the header has 4"),
        (table("path,label,source_group,Label"), 1, 'the column label stands 2 times ("label", "Label")'),
        (table("path,label,source_group, PATH "), 1, "the column path stands 2 times"),
        (table("path,label,source_group,Source Group"), 1, "the column source_group stands 2 times"),
        (table("path,label,remark,Remark"), 1, "the column remark stands 2 times"),
        (table(r26="o\0k"), 26, "NUL"),
        (table(r26="M\udcfcller").encode("utf-8", "surrogateescape"), 26, "not UTF-8"),
        (table().replace("8.png,adeno", "8.png,\u200b"), 10, "the cell under label is empty"),
        ('path,"label,source_group,remark\n1.png,a,b,c\n', 1, "a quotation mark opens a cell"),
    ],
)
def test_a_damaged_line_is_refused_by_its_number(text: str | bytes, line: int, reason: str, tmp_path: Path) -> None:
    message = refused(tmp_path / "t.csv", text)
    assert f"t.csv, line {line}: " in message
    assert reason in message


def test_another_table_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    for text, reason in (
        (table("path,labl,source_group,x"), r'no column label; .*Did you mean "labl"'),
        (table("path:label:source_group"), "no column path and no column label"),
        ("", "no column path and no column label"),
        ("sep=;", "no column path"),
    ):
        with pytest.raises(OtherTable, match=reason):
            read(tmp_path / "t.csv", text)
    with pytest.raises(MedflError) as error:
        read(tmp_path / "t.csv", table(r5='"x'))
    assert not isinstance(error.value, OtherTable)
    with pytest.raises(MedflError, match=r"cannot be read as CSV \(it is a folder, not a regular file\)"):
        read_rows(tmp_path, "site x", COLUMNS)


def damage(rng: random.Random, text: str) -> bytes:
    """A few bytes of a table changed, put in, taken out, or written twice."""
    content = bytearray(text.encode())
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content))
        piece = rng.choice((b'"', b'""', b",", b"\n", b"\r", b"\0", b";", b"\t", b"\xff", b"'", b" ", b'"\n', b',"'))
        match rng.randrange(5):
            case 0:
                content[at:at] = piece
            case 1:
                content[at : at + len(piece)] = piece
            case 2:
                del content[at : at + rng.randint(1, 30)]
            case 3:
                content[at:at] = content[at : at + rng.randint(1, 30)]
            case 4:
                del content[at:]
        if not content:
            break
    return bytes(content)


def rows_of_damage(seeds: range, file: Path) -> None:
    base = [table(), table(end="\n"), table("path;label;source_group;x", ";"), table(r7='"one, two"', r20='"a ""b"""')]
    for seed in seeds:
        rng = random.Random(seed)
        content = damage(rng, rng.choice(base))
        message = ""
        try:
            rows = read(file, content)
        except MedflError as error:
            message = str(error)
        if message:
            assert str(file) in message, seed
            assert message.isprintable(), (seed, message)
        else:
            lines = [line for line in re.split(rb"\r\n|\r|\n", content) if line.strip(b' ,;\t"')]
            assert len(rows) == len(lines) - 1, (seed, content)


def test_no_damage_makes_rows_disappear(tmp_path: Path) -> None:
    rows_of_damage(range(400), tmp_path / "t.csv")


@pytest.mark.slow
def test_no_damage_makes_rows_disappear_for_long(tmp_path: Path) -> None:
    rows_of_damage(range(1000, 60_000), tmp_path / "t.csv")
