"""The lock of a file: one holder at a time, gone with the file."""

import sys

from medfl.data.file_lock import lock_file


def test_one_holds_it_until_the_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as one, path.open("w") as other:
        assert lock_file(one) is True
        assert lock_file(other) is False
        assert lock_file(other.fileno()) is False
        one.close()
        assert lock_file(other, wait=True) is True


def test_a_system_without_locks_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (tmp_path / "lock").open("w") as file:
        assert lock_file(file) is None
