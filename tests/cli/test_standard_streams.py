"""Output that cannot be written costs nothing but itself: other encodings, readers that go, full disks, none at all."""

import io
import os
import subprocess
import sys
import time

import pytest

from medfl.cli import standard_streams
from medfl.cli.standard_streams import SafeStream, guard_standard_streams, steering, write_data
from medfl.errors import MedflError
from tests.odd_names import hidden, odd_names
from tests.paths import ROOT


def encoded(encoding):
    """A stream of an encoding, and the bytes behind it."""
    raw = io.BytesIO()
    return io.TextIOWrapper(raw, encoding=encoding, write_through=True), raw


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_the_encoding_lacks_is_an_escape(encoding):
    stream, raw = encoded(encoding)
    safe = SafeStream(stream)
    for text in ("норма 漢\n", *odd_names(60)):
        assert safe.write(text) == len(text)
    assert not safe.lost
    shown = raw.getvalue().decode(encoding)
    assert shown.startswith("норма 漢\n" if encoding == "utf-8" else "\\u043d\\u043e\\u0440\\u043c\\u0430 \\u6f22\n")


def test_what_libraries_print_cannot_steer_the_terminal():
    stream, raw = encoded("utf-8")
    print(*odd_names(100), sep="\n", file=SafeStream(stream))
    assert not hidden(raw.getvalue().decode()) - {"\r"}
    print("\x1b[1mbold\x1b[0m", file=steering(SafeStream(stream)))
    assert raw.getvalue().endswith(b"\x1b[1mbold\x1b[0m\n")


def test_a_reader_that_goes_away_is_the_end_of_the_output_only():
    read, write = os.pipe()
    stream = SafeStream(os.fdopen(write, "w"))
    print("first", file=stream, flush=True)
    os.close(read)
    for _ in range(3):
        print("second", file=stream, flush=True)
    assert stream.lost
    assert not stream.isatty()
    stream.target.close()  # what was left in its buffer leads nowhere, and does not raise


@pytest.mark.parametrize("target", [None, io.StringIO()])
def test_no_stream_and_a_closed_one(target):
    if target:
        target.close()
    stream = SafeStream(target)
    print("nobody reads this", file=stream, flush=True)
    assert stream.lost
    assert not steering(stream).isatty()


def test_the_guard_is_put_on_once(monkeypatch):
    stream, _ = encoded("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr("logging.lastResort", None)
    guard_standard_streams()
    first = sys.stdout
    guard_standard_streams()
    assert sys.stdout is first
    assert first.target is stream
    standard_streams.complain("to nobody")


def test_data_are_utf_8_whatever_the_encoding(monkeypatch):
    stream, raw = encoded("cp1252")
    monkeypatch.setattr(sys, "stdout", SafeStream(stream))
    write_data("file,p_норма\né.png,1.0\n")
    assert raw.getvalue() == "file,p_норма\né.png,1.0\n".encode()


def test_data_that_have_nowhere_to_go_are_a_sentence(monkeypatch):
    monkeypatch.setattr(sys, "stdout", SafeStream(None))
    with pytest.raises(MedflError, match="--out"):
        write_data("a,b\n")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", SafeStream(full))
            with pytest.raises(MedflError, match=r"cannot be written.*--out"):
                write_data("a,b\n" * 10_000)


@pytest.mark.parametrize("closing", [">&-", "2>&-", "| true", "> /dev/full"])
def test_a_process_ends_as_it_would_have(closing):
    script = "import sys; from medfl.cli.standard_streams import *; guard_standard_streams(); print('x' * 99_999); "
    script += "f = open('/dev/null'); complain('y'); sys.exit(0 if f.fileno() > 2 else 9)"
    command = f'set -o pipefail; {sys.executable} -c "{script}" {closing}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ("" if closing == "2>&-" else "y\n")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "kept"), [(Screen, "medfl: loading\r\x1b[K"), (io.StringIO, "medfl: loading\n")])
def test_a_silent_command_says_that_it_loads_and_takes_it_back(monkeypatch, stream, kept):
    seen = stream()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(standard_streams, "PATIENCE", 0.0)
    status = standard_streams.StatusLine()
    status.start("medfl: loading")
    deadline = time.monotonic() + 5
    while not seen.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    status.end()
    status.end()
    assert seen.getvalue() == kept


def test_a_command_that_speaks_at_once_has_no_status_line(monkeypatch, capsys):
    status = standard_streams.StatusLine()
    monkeypatch.setattr(standard_streams, "STATUS", status)
    status.start("medfl: loading")
    timer = status._timer
    standard_streams.SafeStream(sys.stdout).write("words")
    timer.join()
    assert capsys.readouterr() == ("words", "")
