"""Messages that travel in pieces: the same messages, and no piece that does not belong to one."""

import errno
import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from medfl.engines.remote import pieces, site_endpoint
from medfl.engines.remote.codec import BadMessage, Bounds, pack, unpack_answer, unpack_request
from medfl.engines.remote.pieces import MAGIC, BadPiece, PieceDesk, SpooledMessage, exchange, framed
from medfl.engines.remote.remote_transport import Remote
from medfl.engines.remote.server_endpoint import serve
from medfl.engines.remote.site_endpoint import SiteEndpoint
from medfl.errors import MedflError
from medfl.messages import EvaluateRequest, Failure, Reply, TrainRequest
from medfl.model import disk_vector
from medfl.pipeline.load_pipeline import load_pipeline
from tests.engines.remote.test_endpoints import here, lay_out, same_result, small  # noqa: F401

BOUNDS = Bounds(1000, 10)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr(pieces, "PIECE", 700)
    monkeypatch.setattr(disk_vector, "LARGE", 700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def request(round_=0):
    draw = torch.Generator().manual_seed(round_)
    return TrainRequest(round_, torch.randn(1000, generator=draw), torch.zeros(10))


def replied(data):
    """What a site answers: the weights that it was sent, as its update."""
    message = unpack_request(data, BOUNDS)
    return pack(Reply("north", message.round, update=message.weights, buffers=message.buffers), BOUNDS)


def test_a_message_in_pieces_is_the_message_and_leaves_no_file(tmp_path):
    desk, calls = PieceDesk(), []

    def ask(site, data):
        calls.append(len(data))
        return desk.answered(data, BOUNDS.message, replied)

    remote = Remote({"north"}, ask, BOUNDS, note=lambda *facts: sizes.append(facts[2:4]))
    sizes = []
    for round_ in range(3):
        (answer,) = remote.call(["north"], lambda name, r=round_: request(r))
        assert torch.equal(answer.update, request(round_).weights)
    assert max(calls) < 800
    assert len(calls) == 3 * (7 + 1 + 7)  # 4,000 bytes and a header go there, and come back
    assert all(out > 4000 and into > 4000 for out, into in sizes)
    assert not list(tmp_path.iterdir())  # files without a name


def test_a_run_in_pieces_is_the_run_in_one_process(small, here, tmp_path):  # noqa: F811
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    desks = {name: SiteEndpoint(laid.home / name, name) for name in laid.sites}
    lengths = []

    def ask(site, message):
        lengths.append(len(message))
        return desks[site].handle(laid.run, message)

    serve(laid.server, laid.sites, lambda s, m: desks[s].handshake(), ask)
    assert json.loads((laid.server / "ended.json").read_text()) == {"done": True}
    same_result(here, laid.folder)
    assert len(lengths) > 1000
    assert not list(tmp_path.glob("medfl-message-*"))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (MAGIC + b"no line", "without a line"),
        (MAGIC + b"[1]\n", "without a line"),
        (MAGIC + b'{"put": -1, "of": 5}\n', "without a line"),
        (MAGIC + b'{"put": true, "of": 5}\n', "without a line"),
        (MAGIC + b'{"put": 0, "of": 5' + b" " * 300 + b"}\n", "without a line"),
        (framed(b"x" * 10, put=0, of=10**12), "more than the model allows"),
        (framed(b"x" * 10, put=10, of=20), "does not continue"),
        (framed(b"x" * 30, put=0, of=20), "does not continue"),
        (framed(b"x" * 701, put=0, of=2000), "does not continue"),
        (framed(b"", put=0, of=20), "does not continue"),
        (framed(handle=20), "not all there"),
        (framed(take=0), "not there"),
        (framed(erase=1), "nothing known"),
    ],
)
def test_a_piece_that_belongs_to_nothing_is_refused(frame, why):
    with pytest.raises(BadPiece, match=why):
        PieceDesk().answered(frame, BOUNDS.message, lambda message: pytest.fail("handled"))


def test_a_piece_that_is_lost_comes_twice_or_is_of_another_message_ends_the_message():
    desk = PieceDesk()

    def put(begin, of=30):
        return desk.answered(framed(b"x" * 10, put=begin, of=of), 100, lambda message: b"handled")

    for begin in (0, 20), (0, 0, 0, 10, 10):
        with pytest.raises(BadPiece):
            list(map(put, begin))
    put(0)
    with pytest.raises(BadPiece):
        put(10, of=31)
    put(0)
    put(10)
    with pytest.raises(BadPiece):  # short of one
        desk.answered(framed(handle=30), 100, lambda message: b"handled")
    assert [put(0), put(10), put(20)] == [b""] * 3
    assert desk.answered(framed(handle=30), 100, lambda message: message.read(0)) == b"x" * 30


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (framed(of=10**15), "more than the model allows"),
        (framed(of=0), "more than the model allows"),
        (framed(other=5), "more than the model allows"),
        (MAGIC + b"?", "without a line"),
    ],
)
def test_an_answer_that_is_no_answer_is_a_failure_of_its_site(answer, why):
    def ask(site, data):
        return b"" if b'"put"' in data[:20] else answer

    (said,) = Remote({"north"}, ask, BOUNDS).call(["north"], lambda name: request())
    assert isinstance(said, Failure)
    assert why in said.reason


def test_a_site_that_stops_handing_out_its_answer_is_a_failure():
    answers = [b"", b"", b"", b"", b"", b"", b"", framed(of=5000), framed(b"y" * 700, taken=0)]
    for last in framed(b"", taken=700), framed(b"y" * 700, taken=0), framed(b"y" * 700):
        left = iter([*answers, last])
        (said,) = Remote({"north"}, lambda site, data: next(left), BOUNDS).call(["north"], lambda name: request())  # noqa: B023
        assert "does not continue" in said.reason


def test_a_site_that_says_why_it_hands_out_no_more_is_that_failure():
    refused = pack(Failure("north", 0, "MedflError at the site; its medfl.log says more"), BOUNDS)
    left = iter([b"", b"", b"", b"", b"", b"", b"", framed(of=5000), framed(b"y" * 700, taken=0), refused])
    (said,) = Remote({"north"}, lambda site, data: next(left), BOUNDS).call(["north"], lambda name: request(7))
    assert said == Failure("north", 7, "MedflError at the site; its medfl.log says more")


def test_a_piece_to_a_process_that_was_not_greeted_builds_the_site_or_says_why_it_cannot(small, tmp_path):  # noqa: F811
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    name = next(iter(laid.sites))
    piece = framed(b"x" * 10, put=0, of=20)
    desk = SiteEndpoint(laid.home / name, name)
    assert desk.handle(laid.run, piece) == b""
    broken = SiteEndpoint(tmp_path / "nowhere", name)
    failure = unpack_answer(broken.handle(laid.run, piece), name, 0, BOUNDS)
    assert "more than the model allows" not in failure.reason
    assert "at the site" in failure.reason or "nowhere" in failure.reason


def test_what_a_site_refuses_of_a_piece_is_its_reason():
    refused = pack(Failure("north", 0, "a message of 9 bytes, more than the model allows"), BOUNDS)
    (said,) = Remote({"north"}, lambda site, data: refused, BOUNDS).call(["north"], lambda name: request(7))
    assert said == Failure("north", 7, "a message of 9 bytes, more than the model allows")


def test_of_messages_that_wait_for_a_site_to_be_built_the_newest_is_answered(monkeypatch, tmp_path):
    ready = SimpleNamespace(
        bounds=BOUNDS,
        questions=SimpleNamespace(check=lambda run, request: None),
        site=SimpleNamespace(handle=lambda request: Reply("north", request.round)),
        state_file=None,
    )
    monkeypatch.setattr(site_endpoint, "build", lambda folder, name: time.sleep(0.5) or ready)
    desk = SiteEndpoint(tmp_path, "north")
    quiet = SimpleNamespace(settle=lambda request: None, save=lambda: None, create=lambda: None)
    monkeypatch.setattr(desk, "_state_file", lambda ready, run: quiet)
    answers = {}

    def ask(round_):
        message = pack(EvaluateRequest(round_, torch.zeros(100), torch.zeros(10), (), -1, ()), bounds)
        answers[round_] = unpack_answer(desk.handle("run1", message), "north", round_, bounds)

    bounds = ready.bounds = Bounds(100, 10)  # a message of one call
    threads = [threading.Thread(target=ask, args=(round_,)) for round_ in (1, 2, 3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert isinstance(answers[3], Reply)
    assert "overtaken" in answers[2].reason


def test_a_message_that_is_cut_short_is_refused():
    spooled = pack(request(), BOUNDS)
    assert isinstance(spooled, SpooledMessage)
    short = SpooledMessage(3500)
    for begin in range(0, 3500, 700):
        short.add(begin, spooled.read(begin))
    with pytest.raises(BadMessage, match="cannot be read"):
        unpack_request(short, BOUNDS)
    with pytest.raises(BadMessage, match="another site's name"):
        unpack_answer(pack(Reply("south", 0, update=torch.zeros(1000)), BOUNDS), "north", 0, BOUNDS)


def test_a_full_disk_is_one_sentence(monkeypatch):
    spooled = SpooledMessage(20)

    def full(piece):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spooled, "_file", SimpleNamespace(write=full))
    with pytest.raises(
        MedflError, match=r"finds no room in .*No space left on device.*make room, or set TMPDIR elsewhere"
    ):
        spooled.add(0, b"x")
    with pytest.raises(MedflError, match="finds no room"):
        SpooledMessage.of_file(lambda path: (path / "nowhere").write_bytes(b""))
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(MedflError, match="finds no room in /nowhere"):
        pack(request(), BOUNDS)


def test_a_short_message_is_one_call():
    assert exchange(lambda data: data[::-1], b"abc", 100) == b"cba"
