"""One process at a time works on a run folder, and whoever comes second is told by whom."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing import get_context

import pytest

from medfl.errors import MedflError
from medfl.runs.folder import RunFolder
from medfl.runs.folder_lock import LOCK, FolderLock


def test_the_second_is_refused_with_the_first_ones_name(tmp_path):
    first = FolderLock(tmp_path, "run")
    with pytest.raises(
        MedflError, match=rf"`medfl run` of .*process {os.getpid()} on {socket.gethostname()}, since 20"
    ):
        FolderLock(tmp_path, "resume")
    first.release()
    first.release()
    assert (tmp_path / LOCK).read_text() == ""
    FolderLock(tmp_path, "resume").release()


def test_what_a_killed_process_left_counts_for_nothing_and_what_a_live_one_holds_does(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from medfl.runs.folder_lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1]), 'run'); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(MedflError, match=f"process {process.pid} on"):
        FolderLock(tmp_path, "resume")
    process.kill()
    process.wait()
    process.stdout.close()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == process.pid
    FolderLock(tmp_path, "resume").release()


def test_a_name_from_another_machine_is_told_with_what_to_delete(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"what": "run", "user": "u", "host": "elsewhere", "pid": 1}))
    with pytest.raises(MedflError, match=r"`medfl run` of u \(process 1 on elsewhere.*delete .*\.lock and give"):
        FolderLock(tmp_path, "resume")
    (tmp_path / LOCK).unlink()
    FolderLock(tmp_path, "resume").release()


def test_no_lock_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=LOCK):
        FolderLock(tmp_path, "run")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_second_one_may_wait(tmp_path):
    first, order = FolderLock(tmp_path, "register"), []

    def second() -> None:
        lock = FolderLock(tmp_path, "register", wait=30)
        order.append("second")
        lock.release()

    thread = threading.Thread(target=second)
    thread.start()
    order.append("first")
    first.release()
    thread.join()
    assert order == ["first", "second"]


def test_two_starts_never_share_a_folder(tmp_path, monkeypatch):
    """Without --out within one second, and with one --out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    names, barrier = [], threading.Barrier(6)

    def start() -> None:
        barrier.wait()
        names.append(RunFolder.create("x", None).path)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in names) == [
        "x-20260101-000000",
        *(f"x-20260101-000000-{n}" for n in range(2, 7)),
    ]
    first = RunFolder.create("x", tmp_path / "out")
    with pytest.raises(MedflError, match=r"`medfl run` of .* is at work on"):
        RunFolder.create("x", tmp_path / "out")
    first.pipeline.write_text("name: x\n")
    first.release()
    with pytest.raises(MedflError, match="already holds a run"):
        RunFolder.create("x", tmp_path / "out")


def hold_with_a_copy(folder, line):
    """Hold the folder in a process that has a copy of itself, and tell both."""
    lock = FolderLock(folder, "run")
    if copy := os.fork():
        line.send(copy)
    signal.pause()
    lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no copies of processes here")
def test_a_copy_of_a_killed_process_holds_nothing(tmp_path):
    context = get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=hold_with_a_copy, args=(tmp_path, there))
    process.start()
    copy = here.recv()
    process.kill()
    process.join()
    try:
        FolderLock(tmp_path, "resume", wait=5.0).release()
        os.kill(copy, 0)  # which is there still
    finally:
        os.kill(copy, signal.SIGKILL)
