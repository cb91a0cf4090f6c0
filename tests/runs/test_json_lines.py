"""A torn last line is one that was being written; any other damage is a sentence, and takes nothing away."""

import json

import pytest

from medfl.errors import MedflError
from medfl.runs.json_lines import append_json_line, keep_json_lines, lines_digest, read_json_lines

WHOLE = b"".join(json.dumps({"round": t, "x": 0.1}).encode() + b"\n" for t in range(4))


@pytest.mark.parametrize("torn", [b'{"round": 4, "x', b"\0\0\0", b'{"round": "\xff', b"17"])
def test_a_torn_last_line_does_not_count_and_goes(tmp_path, torn):
    file = tmp_path / "rounds.jsonl"
    file.write_bytes(WHOLE + torn)
    assert [line["round"] for line in read_json_lines(file)] == [0, 1, 2, 3]
    keep_json_lines(file)
    assert file.read_bytes() == WHOLE


@pytest.mark.parametrize("damage", [b"17", b"", b"[]", b'{"round"; 1}', b"\xff\xfe", b"null", b"[" * 100_000])
@pytest.mark.parametrize("place", [1, 3])
def test_a_damaged_line_is_told_and_nothing_is_lost(tmp_path, damage, place):
    file = tmp_path / "rounds.jsonl"
    lines = WHOLE.split(b"\n")
    lines[place] = damage
    file.write_bytes(b"\n".join(lines))
    for reader in (read_json_lines, keep_json_lines):
        with pytest.raises(MedflError, match=rf"rounds\.jsonl, line {place + 1}: .*restore the file"):
            reader(file)
    assert file.read_bytes() == b"\n".join(lines)


def test_what_is_kept_is_the_same_bytes(tmp_path):
    file = tmp_path / "rounds.jsonl"
    file.write_bytes(WHOLE.replace(b": 0.1", b":   1e-1"))
    begin = lines_digest(file)
    append_json_line(file, {"round": 4})
    assert lines_digest(file, begin[0]) == begin != lines_digest(file)
    keep_json_lines(file, 4)
    assert file.read_bytes() == WHOLE.replace(b": 0.1", b":   1e-1")
