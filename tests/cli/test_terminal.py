"""The terminal: all text as it is, whoever wrote it, and one door through which all of it goes."""

import io
import re
import sys

import pytest

from medfl.cli.standard_streams import SafeStream
from medfl.cli.terminal import Terminal
from tests.odd_names import ODD_NAMES, hidden, odd_names
from tests.paths import ROOT

DOOR = ("cli/terminal.py", "cli/standard_streams.py")
ELSEWHERE = ("export/classify.py",)  # copied into what `medfl export` writes, where there is no medfl
CSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """screen() puts a terminal in the place of standard output, as the command line does."""
    for name, value in (("COLUMNS", "80"), ("LINES", "24"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def show():
        stream = Screen()
        monkeypatch.setattr(sys, "stdout", SafeStream(stream))
        return stream

    return show


def test_brackets_dollars_and_colons_are_no_markup(capsys):
    terminal, names = Terminal(), [name for name in ODD_NAMES if not hidden(name, lines=False) and len(name) < 40]
    terminal.say(*names)
    assert capsys.readouterr().out.splitlines() == names
    terminal.table("[bold]title[/]", ["", "[/x]", ":smile:"], [[name, name, "1.000 [n/a]"] for name in names])
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("[bold]title[/]", "[/x]", ":smile:"))
    assert shown.count("1.000 [n/a]") == len(names)
    assert not [name for name in names if shown.count(name.strip()) < 2]


def test_no_name_breaks_a_line_or_a_table(capsys):
    terminal, names = Terminal(), odd_names(120)
    for name in names:
        terminal.say(f"site {name} failed")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names)
    assert all(line.startswith("site ") and line.endswith(" failed") for line in lines)
    for start in range(0, len(names), 6):
        few = names[start : start + 6]
        terminal.table(few[0], few, [few, few])
    assert not hidden(capsys.readouterr().out)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_tables_are_laid_out_as_the_encoding_shows_them(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    Terminal().table("норма", ["class", "n"], [["норма", "1"], ["plain", "22"]])
    lines = raw.getvalue().decode(encoding).splitlines()
    rows = [line.rstrip(" |") for line in lines if "u043d" in line or "plain" in line][1:]
    assert len({len(row) for row in rows}) == 1, rows


def test_a_live_terminal_is_steered_by_the_bar_only(screen):
    stream = screen()
    terminal, names = Terminal(), [name for name in odd_names(60) if name.strip()]
    for number, name in enumerate(names):
        entry = {"role": "train", "val": {"auroc": 0.5}, "train_loss": 1.0}
        failures = [{"site": name, "reason": f"lost {name}"}]
        record = {"round": number, "sites": {name: entry}, "participants": [name], "counted": True}
        terminal.round(record | {"failures": failures}, len(names))
    print("\x1b[2J[not markup]")  # a library's own print
    terminal.close()
    with terminal.steps() as show:
        for name in names:
            show(name, 1, 1)
    shown = stream.getvalue()
    assert "\\x1b[2J[not markup]" in shown
    assert {code[-1] for code in CSI.findall(shown)} <= set("mAKlh")  # colours, a line up, its end, the cursor
    assert not hidden(CSI.sub("", shown).replace("\r", ""))


def test_eighty_columns(screen):
    stream = screen()
    terminal = Terminal()
    classes = ["lung_aca", "adenocarcinoma of the lung with lepidic growth", "y" * 300]
    terminal.table(
        "t" * 30, ["", *classes], [[f"true {name}", "1,234 (56)", "0.987 [0.123, 0.999]", "7"] for name in classes]
    )
    lines = CSI.sub("", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 30
    assert any("1,234" in line for line in lines)


def test_everything_people_read_goes_through_one_door():
    """No print, no console, no markup elsewhere in the package."""
    other = re.compile(
        r"(?<![\w.])print\(|\b(?:typer|click)\.s?echo\b|\bsys\.std(?:out|err)\.|^\s*(?:from|import) rich\b", re.M
    )
    for path in sorted((ROOT / "medfl").rglob("*.py")):
        place = path.relative_to(ROOT / "medfl").as_posix()
        if place not in DOOR and place not in ELSEWHERE:
            assert not other.findall(path.read_text(encoding="utf-8")), place


def at_width(monkeypatch, capsys, width, title, columns, rows):
    """The lines of a table printed at this width."""
    monkeypatch.setenv("COLUMNS", str(width))
    Terminal().table(title, columns, rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_cell_is_broken_and_no_column_vanishes(monkeypatch, capsys, width):
    columns = ["site", "role", "n (groups)", "AUROC [95 %]", "bal. acc.", "ECE before -> after [95 %]", "Brier"]
    rows = [
        ["colon-clinic", "train", "52 (13)", "1.000 [0.78, 1.00] too few groups", "0.979", "0.308 -> 0.180", "0.100"],
        ["private-laboratory", "held-out", "1,192 (48)", "0.977 [0.941, 0.992]", "0.773", "n/a -> n/a", "0.331"],
    ]
    lines = at_width(monkeypatch, capsys, width, "Test data", columns, rows)
    assert max(map(len, lines)) <= width
    assert lines[0].rstrip() == "Test data"
    for cell in [*columns, *rows[0], *rows[1]]:
        assert any(cell in line for line in lines), cell
    for name, *cells in rows:  # each beside the name of its row
        mine = [line for line in lines if line.lstrip().startswith(name)]
        assert all(any(cell in line for line in mine) for cell in cells)


def test_a_table_whose_cells_are_sentences_becomes_a_list(monkeypatch, capsys):
    words = "one that stands on many source groups and is long enough to fill more than one line of a terminal"
    lines = at_width(monkeypatch, capsys, 80, "Methods", ["name", "what it does", "goes with"], [["ecgr", words, ""]])
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == f"Methods ecgr what it does: {words}"


def test_round_lines_stay_above_the_bar(screen):
    stream, terminal = screen(), Terminal()
    for number in range(3):
        entry = {"role": "train", "val": {"auroc": 0.5 + number / 10}, "train_loss": 1.0}
        record = {"round": number, "sites": {"a": entry}, "participants": ["a"], "counted": True, "failures": []}
        terminal.round(record, 2)
    shown = CSI.sub("", stream.getvalue())
    assert [f"round {number}/2  val AUROC" in shown for number in range(3)] == [True] * 3
    assert shown.rstrip().splitlines()[-1].startswith("round 2/2  val AUROC 0.700")
