"""The ends of the line without FLARE: messages as bytes, a site's state on its disk, a run over both, bit for bit."""

import dataclasses
import json
import pickle
import random
import re
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save

from medfl.cli.commands.common import launcher
from medfl.engines.nvflare.run_kit import NOTE
from medfl.engines.nvflare.run_layout import lay_out
from medfl.engines.remote.audit_log import entries, sentence, verify
from medfl.engines.remote.codec import HEADER, BadMessage, Bounds, pack, unpack_answer, unpack_request
from medfl.engines.remote.greeting import PROTOCOL
from medfl.engines.remote.remote_transport import NoAnswer, Remote
from medfl.engines.remote.server_endpoint import serve
from medfl.engines.remote.site_endpoint import SiteEndpoint
from medfl.engines.remote.site_state import SiteStateFile, StateLost
from medfl.errors import MedflError
from medfl.messages import (
    EvaluateRequest,
    Failure,
    HistogramRequest,
    KeyRequest,
    MeasureRequest,
    Reply,
    Request,
    ScalingRequest,
    StainRequest,
    TemperatureRequest,
    TrainRequest,
    UnmaskRequest,
    message_bytes,
)
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import resume, run
from medfl.runs.versions import versions
from medfl.site.state import SiteMemory
from tests.tiny import SMALLEST, WITH_BATCHNORM
from tests.toys import toy_bench, toy_sites

BOUNDS = Bounds(3, 2, frozenset({"n/a"}))
MODEL = (4, torch.tensor([1.0, -0.0, 1e-42]), torch.tensor([0.5, 3.0]), ("val", "test"), 3, (0.5, 1 / 3))
REQUEST = TrainRequest(
    *MODEL,
    lr_scale=0.1,
    stain_others=(0.1,) * 27,
    extra={"mask": torch.tensor([True, False, True]), "c": torch.ones(3)},
    mask_keys={"north": {"key": "ab" * 32, "signature": "cd"}, "south": {"key": "ef" * 32}},
    mask_tag="7",
)
REQUESTS = {
    "train": REQUEST,
    "evaluate": EvaluateRequest(*MODEL),
    "stain": StainRequest(0, torch.empty(0), torch.empty(0), ("train",), method="macenko", dyes=True),
    "key": KeyRequest(4, torch.empty(0), torch.empty(0), last_accepted_round=3),
    "unmask": UnmaskRequest(4, torch.empty(0), torch.empty(0), tag="7", survivors=("north", "south")),
    "temperatures": TemperatureRequest(*MODEL, temperatures=(0.5, 1.0), laboratories=3, stain_strength=0.25),
    "scaling": ScalingRequest(*MODEL, points=(1.0, 0.5), laboratories=3, stain_strength=0.25),
    "histograms": HistogramRequest(*MODEL, temperature=None, scale=(0.5,), bias=(-0.5,), malignant=("a",)),
    "measure": MeasureRequest(
        *MODEL,
        resamples=9,
        temperature=0.5,
        scale=(0.5,),
        bias=(1.0,),
        thresholds={"a": 0.25},
        malignant=("a",),
        members=7,
    ),
}
REPLY = Reply(
    "north",
    4,
    samples=7,
    steps=2,
    update=torch.tensor([0.1, 0.2, 0.3]),
    buffers=torch.zeros(2),
    train_loss=0.7,
    metrics={"val": {"auroc": None, "loss": 1 / 3, "supported_classes": ["a", "n/a"]}},
    seconds={"train": 0.5},
)


def same(one, two) -> bool:
    """Equal messages, vectors bit for bit."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, torch.Tensor):
            if b is None or a.dtype != b.dtype or a.numpy().tobytes() != b.numpy().tobytes():
                return False
        elif field.name == "extra":
            if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a):
                return False
        elif a != b:
            return False
    return True


def test_an_update_travels_in_half_the_bytes():
    update = REPLY.update.to(torch.bfloat16).float()
    rounded = dataclasses.replace(REPLY, update=update, update_dtype=torch.bfloat16)
    data = pack(rounded, BOUNDS)
    assert same(unpack_answer(data, "north", 4, BOUNDS), rounded)
    assert (message_bytes(REPLY), message_bytes(rounded)) == (4 * 5, 2 * 3 + 4 * 2)
    others = dataclasses.replace(REPLY, buffers=REPLY.buffers.to(torch.bfloat16))
    with pytest.raises(BadMessage, match="the vector buffers of a reply is of the wrong kind"):
        unpack_answer(pack(others, BOUNDS), "north", 4, BOUNDS)


def test_messages_come_back_as_they_were():
    for request in REQUESTS.values():
        back = unpack_request(pack(request, BOUNDS), BOUNDS)
        assert type(back) is type(request)
        assert same(back, request)
    assert same(unpack_answer(pack(REPLY, BOUNDS), "north", 4, BOUNDS), REPLY)
    whole = torch.tensor([1 << 62, -(1 << 63), -1, 0, 7])
    masked = dataclasses.replace(REPLY, update=None, buffers=None, masked=whole, masking={"pair_a": "ab" * 600})
    assert same(unpack_answer(pack(masked, BOUNDS), "north", 4, BOUNDS), masked)
    failure = Failure("north", 4, "the update is not finite in round 4")
    assert unpack_answer(pack(failure, BOUNDS), "north", 4, BOUNDS) == failure


def framed(header, vectors=None, length=None) -> bytes:
    """A message with any header; `length` is what it claims of its metadata's."""
    data = bytes(save(vectors or {}, {HEADER: header if isinstance(header, str) else json.dumps(header)}))
    return data if length is None else length.to_bytes(8, "little") + data[8:]


def facts(message, **changes) -> dict:
    vectors = ("weights", "update", "buffers", "extra", "masked", "update_dtype")
    names = [f.name for f in dataclasses.fields(message) if f.name not in vectors]
    kind = next((kind for kind, request in REQUESTS.items() if type(request) is type(message)), "reply")
    stated = {name: getattr(message, name) for name in names} | changes
    return {"kind": kind} | {name: list(v) if isinstance(v, tuple) else v for name, v in stated.items()}


VECTORS = {"weights": torch.zeros(3), "buffers": torch.zeros(2)}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no message"),
        (pickle.dumps(REQUEST), "longer"),
        (b"12345678", "longer"),
        (bytes(save(VECTORS)), "no message"),
        (bytes(save(VECTORS, {"medfl-2": "{}"})), "no message"),
        (framed({}, length=1 << 31), "longer"),
        (framed({}, length=3), "no JSON"),
        (framed("[" * 100_000), "no JSON"),
        (framed('{"kind": NaN}'), "no JSON"),
        (framed("[]"), "no object"),
        (framed({"kind": "reply"}), "no request"),
        (framed(facts(REQUEST) | {"path": "x"}, VECTORS), "unknown or missing"),
        (framed({k: v for k, v in facts(REQUEST).items() if k != "lr_scale"}, VECTORS), "unknown or missing"),
        (framed(facts(REQUEST) | {"kind": "evaluate"}, VECTORS), "unknown or missing"),
        (framed(facts(REQUEST) | {"kind": "request"}, VECTORS), "no request"),
        (framed(facts(REQUEST) | {"kind": ["train"]}, VECTORS), "no request"),
        (framed(facts(REQUESTS["evaluate"]), VECTORS | {"extra.c": torch.zeros(3)}), "without a place"),
        (framed(facts(REQUESTS["measure"], thresholds={"a": "x"}), VECTORS), "`thresholds`"),
        (framed(facts(REQUESTS["measure"], temperature=None), VECTORS), "`temperature`"),
        (framed(facts(REQUESTS["measure"], members=-1), VECTORS), "`members`"),
        (framed(facts(REQUESTS["temperatures"], temperatures=["1"]), VECTORS), "`temperatures`"),
        (framed(facts(REQUESTS["scaling"], points=[[1.0]]), VECTORS), "`points`"),
        (framed(facts(REQUESTS["scaling"], laboratories=-1), VECTORS), "`laboratories`"),
        (framed(facts(REQUESTS["measure"], scale=None), VECTORS), "`scale`"),
        (framed(facts(REQUESTS["histograms"], malignant=[1]), VECTORS), "`malignant`"),
        (framed(facts(REQUEST, round=-1), VECTORS), "`round`"),
        (framed(facts(REQUEST, round=True), VECTORS), "`round`"),
        (framed(facts(REQUEST, splits="val"), VECTORS), "`splits`"),
        (framed(facts(REQUEST), {"buffers": torch.zeros(2)}), "without weights"),
        (framed(facts(REQUEST), VECTORS | {"weights": torch.zeros(2)}), "the weights have 2"),
        (framed(facts(REQUEST), VECTORS | {"weights": torch.zeros(3).double()}), "wrong kind"),
        (framed(facts(REQUEST), VECTORS | {"extra.c": torch.zeros(4)}), "wrong kind or length"),
        (framed(facts(REQUEST), VECTORS | {"extra.c": torch.zeros(1, 3)}), "wrong kind or length"),
        (framed(facts(REQUEST, mask_keys={"a": {"key": "xy"}}), VECTORS), "`mask_keys`"),
        (framed(facts(REQUEST), VECTORS | {"masked": torch.zeros(4, dtype=torch.int64)}), "wrong kind or length"),
        (framed(facts(REQUEST), VECTORS | {"masked": torch.zeros(5, dtype=torch.int64)}), "without a place"),
        (framed(facts(REQUEST), VECTORS | {"other": torch.zeros(3)}), "without a place"),
        (framed(facts(REQUEST), VECTORS | {f"extra.{i}": torch.zeros(1) for i in range(20)}), "22 vectors"),
        (pack(REQUEST, BOUNDS)[:-1], "cannot be read"),
    ],
)
def test_what_is_no_request_is_refused(data, says):
    with pytest.raises(BadMessage, match=says):
        unpack_request(data, BOUNDS)


@pytest.mark.parametrize("text", ["/data/patient-7/a.png", "C:\\x", "a\nb", "x" * 65])
def test_a_reply_holds_names_and_numbers_only(text):
    for metrics in ({"val": {"note": text}}, {"val": {"note": [{text: 1}]}}):
        with pytest.raises(BadMessage, match="names and numbers"):
            pack(dataclasses.replace(REPLY, metrics=metrics), BOUNDS)
        with pytest.raises(BadMessage, match="names and numbers"):
            unpack_answer(framed(facts(REPLY, metrics=metrics)), "north", 4, BOUNDS)


def test_a_site_speaks_for_itself_and_for_the_round_asked():
    for site, round_ in (("south", 4), ("north", 5)):
        with pytest.raises(BadMessage, match="another"):
            unpack_answer(pack(REPLY, BOUNDS), site, round_, BOUNDS)


def test_sites_work_side_by_side_and_answer_in_order():
    both = threading.Barrier(2, timeout=10)

    def ask(site: str, message: bytes) -> bytes:
        request = unpack_request(message, BOUNDS)
        if site == "late":
            raise NoAnswer("no answer within 1 s")
        if site == "odd":
            return b"?"
        both.wait()  # passes only if both sites are asked at once
        if site == "a":
            time.sleep(0.05)
        return pack(Reply(site, request.round), BOUNDS)

    remote = Remote({"a", "b", "late", "odd"}, ask, BOUNDS)
    answers = list(remote.call(["a", "absent", "b", "late", "odd"], lambda name: REQUEST))
    assert [answer.site for answer in answers] == ["a", "absent", "b", "late", "odd"]
    reasons = {answer.site: answer.reason for answer in answers if isinstance(answer, Failure)}
    assert reasons.keys() == {"absent", "late", "odd"}
    assert reasons["absent"] == "not connected"
    assert reasons["late"] == "no answer within 1 s"
    assert "refused" in reasons["odd"]


def test_sites_that_are_sent_the_same_share_one_message():
    sent = {}

    def ask(site: str, message: bytes) -> bytes:
        sent[site] = message
        return pack(Reply(site, 4), BOUNDS)

    changes = {"c": {"last_accepted_round": 2}, "d": {"extra": {"c": torch.ones(3)}}}

    def request(name: str) -> Request:
        return dataclasses.replace(REQUEST, **{"extra": {}} | changes.get(name, {}))

    remote = Remote(set("abcde"), ask, BOUNDS)
    list(remote.call("abcde", request))
    assert sent["a"] is sent["b"]
    assert len({id(message) for message in sent.values()}) == 4
    for name in "abcde":
        assert same(unpack_request(sent[name], BOUNDS), request(name))


def ask_site(site, keeper, round_, accepted, weights, c):
    """One training request through a keeper; the update."""
    extra = {"scaffold.c": c} if c is not None else {}
    request = TrainRequest(round_, weights, site.shared.model.buffers(), last_accepted_round=accepted, extra=extra)
    keeper.settle(request)
    reply = site.handle(request)
    keeper.save()
    keeper.create()
    return reply.update


def test_a_repeated_round_gives_the_same_reply_also_from_a_new_process(tmp_path):
    bench = toy_bench(["scaffold"])
    name = next(iter(toy_sites(bench)))
    weights = bench.model.weights()
    zero, one = torch.zeros_like(weights), torch.full_like(weights, 1e-3)

    def play(tmp, steps):
        """The updates of a chain of (round, accepted, c, new process?)."""
        site, found = None, []
        for round_, accepted, c, new in steps:
            if site is None or new:
                site = toy_sites(toy_bench(["scaffold"]))[name]
                keeper = SiteStateFile(tmp, "run1", site)
            found.append(ask_site(site, keeper, round_, accepted, weights, c))
        return found

    plain = play(tmp_path / "a", [(0, -1, zero, 0), (1, 0, one, 0), (2, 1, one, 0)])
    assert not torch.equal(plain[1], plain[2])
    again = play(tmp_path / "b", [(0, -1, zero, 0), (0, -1, zero, 1), (1, 0, one, 1), (1, 0, one, 1), (2, 1, one, 1)])
    for at, wanted in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2)):
        assert torch.equal(again[at], plain[wanted])
    # The server comes back a checkpoint earlier than it last said: round 1 again after round 2 was asked.
    back = play(tmp_path / "c", [(0, -1, zero, 0), (1, 0, one, 0), (2, 1, one, 0), (1, 0, one, 1), (2, 1, one, 0)])
    assert torch.equal(back[3], plain[1])
    assert torch.equal(back[4], plain[2])


def test_state_that_is_gone_or_too_old_is_said_and_not_made_up(tmp_path):
    site = next(iter(toy_sites(toy_bench(["scaffold"])).values()))
    weights = site.shared.model.weights()
    keeper = SiteStateFile(tmp_path, "run1", site)
    request = TrainRequest(3, weights, site.shared.model.buffers(), last_accepted_round=2)
    with pytest.raises(StateLost, match="is gone"):
        keeper.settle(request)
    for round_ in range(3):
        ask_site(site, keeper, round_, round_ - 1, weights, torch.zeros_like(weights))
    with pytest.raises(StateLost, match="later round"):
        keeper.settle(dataclasses.replace(request, last_accepted_round=-1))
    keeper.file.write_bytes(b"torn")
    with pytest.raises(StateLost, match="damaged"):
        SiteStateFile(tmp_path, "run1", site)


def test_state_that_is_damaged_anywhere_is_said(tmp_path):
    """One byte flipped in any place, or facts of another form; a file without a check sum, as 0.1 wrote it, is read."""
    site = SimpleNamespace(name="a", memory=lambda: SiteMemory("a"), restore=lambda memory: None)
    keeper = SiteStateFile(tmp_path, "run1", site)
    memory = SiteMemory("a", {"c": torch.arange(4.0)}, 3).proposing(4, {"d": torch.ones(2)})
    keeper.before = SiteMemory("a", {"c": torch.zeros(4)}, 2)
    keeper._save(memory)
    whole = keeper.file.read_bytes()

    def read(data=None):
        keeper.file.write_bytes(whole if data is None else data)
        return SiteStateFile(tmp_path, "run1", site)

    assert (read().memory.round, read().memory.pending.round, read().before.round) == (3, 4, 2)
    draw = random.Random(1)
    for at in range(0, len(whole), 5):
        flipped = whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :]
        cut = whole[: draw.randrange(len(whole))]
        for data in (flipped, cut):
            with pytest.raises(StateLost, match="damaged"):
                read(data)
    tensors = {"state.c": torch.zeros(4)}
    read(bytes(save(tensors, {"facts": '{"round": 1, "pending": null}'})))
    for odd in (
        '{"round": "1"}',
        '{"pending": []}',
        '{"pending": true}',
        "[]",
        '{"before": 3}',
        "{",
        '{"round": null}',
    ):
        with pytest.raises(StateLost, match="damaged"):
            read(bytes(save(tensors, {"facts": odd})))


def test_a_process_left_behind_does_not_write_the_state_of_its_successor(tmp_path):
    site = next(iter(toy_sites(toy_bench(["scaffold"])).values()))
    weights = site.shared.model.weights()
    left, zero = SiteStateFile(tmp_path, "run1", site), torch.zeros_like(weights)
    ask_site(site, left, 0, -1, weights, zero)
    again = next(iter(toy_sites(toy_bench(["scaffold"])).values()))
    ask_site(again, SiteStateFile(tmp_path, "run1", again), 1, 0, weights, zero)
    written = left.file.read_bytes()
    with pytest.raises(StateLost, match="taken over"):
        ask_site(site, left, 1, 0, weights, zero)
    assert left.file.read_bytes() == written


ONE_CLASS = [{"site": "held-out-01", "role": "held_out", "split": "test", "class": "lung_n", "groups": 3, "patches": 9}]
SMALL = {
    "name": "small",
    "seed": 5,
    "task": {"classes": ["lung_aca", "lung_n", "colon_n"]},
    "data": {"source": "tissue", "size": 32, "mpp": 0.5, "tissue": {"tiles_per_class": 24, "copies": 3, "size": 48}},
    "sites": {"generate": {"count": 2, "held_out": 1, "patches": 45, "dirichlet_alpha": 5.0}},
    "model": SMALLEST,
    "training": {"rounds": 2, "batch_size": 8, "threads": 1, "optimizer": {"lr": 0.02}},
    "method": ["scaffold", "ecgr"],
    "evaluation": {"resamples": 200},
    "disclosure": {"min_count": 1},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def here(small, tmp_path_factory):
    """The run in one process."""
    return run(load_pipeline(small), tmp_path_factory.mktemp("here") / "run").folder


def same_result(one, two) -> None:
    """Byte for byte the same rounds and curves, bit for bit the same weights, the same summary but for its times."""
    assert one.rounds.read_bytes() == two.rounds.read_bytes()
    assert one.curves.read_bytes() == two.curves.read_bytes()
    assert one.allocation_summary.read_bytes() == two.allocation_summary.read_bytes()
    first, second = load_file(one.model), load_file(two.model)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    own = ("run", "timings", "digests", "site_signature")  # a signature needs the features of all sites in one process
    named = [{k: v for k, v in f.read_summary().items() if k not in own} for f in (one, two)]
    assert named[0] == named[1]


def spoken(laid, ask=None, present=None):
    """Carry out a laid-out run over desks of this process; how it ended."""
    desks = {name: SiteEndpoint(laid.home / name, name) for name in laid.sites}

    def plain(site: str, message: bytes) -> bytes:
        return desks[site].handle(laid.run, message)

    asked = (lambda s, m: ask(s, m, plain)) if ask else plain
    serve(laid.server, present or laid.sites, lambda s, m: desks[s].handshake(), asked)
    return json.loads((laid.server / "ended.json").read_text())


def test_a_run_over_bytes_is_the_run_in_one_process(small, here, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    assert spoken(laid) == {"done": True}
    same_result(here, laid.folder)
    assert not list(here.path.rglob("audit.jsonl"))  # one process of one user has none
    logs = {name: laid.home / name / "audit.jsonl" for name in ("server", *laid.sites)}
    assert not any(verify(log).problems for log in logs.values())
    asked = {name: [e["facts"] for e in entries(log) if e["event"] == "answered"] for name, log in logs.items()}
    heard = [entry["facts"] for entry in entries(logs["server"]) if entry["event"] == "received"]
    for name in laid.sites:  # both ends have on record the same questions, and the same bytes
        mine = [(fact["kind"], fact["round"], fact["bytes_out"]) for fact in asked[name]]
        assert mine == [(fact["kind"], fact["round"], fact["bytes_in"]) for fact in heard if fact["site"] == name]
        assert mine
    with pytest.raises(MedflError, match="keep their own state"):
        resume(laid.folder.path)


STAINED = {"training": {"augment": {"exchange": 0.5}}, "adapt": {"remedy": ["normalise", "batchnorm"]}}
"""Sites tell their dyes, and a held-out one is adapted to."""


def test_dyes_and_adaptation_over_bytes_are_those_in_one_process(tmp_path):
    sites = {"generate": SMALL["sites"]["generate"] | {"stain_strength": 0.5}}
    stained = (
        SMALL | STAINED | {"model": WITH_BATCHNORM, "training": SMALL["training"] | STAINED["training"], "sites": sites}
    )
    (tmp_path / "stained.yaml").write_text(yaml.safe_dump(stained))
    pipeline = load_pipeline(tmp_path / "stained.yaml")
    alone = run(pipeline, tmp_path / "alone").folder
    laid = lay_out(pipeline, "simulator", tmp_path / "far")
    assert spoken(laid) == {"done": True}
    same_result(alone, laid.folder)
    assert alone.read_summary()["sites"]["held-out-01"]["adapted"]["steps"] == ["normalise", "batchnorm"]


def test_updates_travel_behind_masks_and_a_site_that_drops_out_does_not_stop_the_sum(small, tmp_path):
    """Of three sites one fails after it has announced its key; both logs have it that only masked updates left."""
    three = ["method=[]", "sites.generate.count=3", "training={rounds: 1, local_steps: 1, secure_aggregation: true}"]
    laid = lay_out(load_pipeline(small, three), "simulator", tmp_path / "far")

    def ask(site, message, plain):
        if site == "site-02" and b'kind\\": \\"train' in message[:2000]:
            raise NoAnswer("away")
        return plain(site, message)

    assert spoken(laid, ask) == {"done": True}
    first = next(iter(laid.folder.records()))
    assert first["counted"]
    assert first["failures"] == [{"site": "site-02", "reason": "away"}]
    assert first["update"]["sq"] > 0
    left = [entry for entry in entries(laid.home / "site-01" / "audit.jsonl") if entry["event"] == "answered"]
    named = {entry["facts"]["kind"]: entry["facts"] for entry in left}
    assert named["train"]["vectors"].keys() == {"masked"}
    assert named["key"]["masking"] == ["key"]
    assert named["unmask"]["masking"] == ["own_seed", "pair_site-02"]
    assert "masking: own_seed, pair_site-02" in sentence(next(e for e in left if e["facts"]["kind"] == "unmask"))


def test_each_party_is_given_its_own_and_no_more(small, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    with laid.folder.allocation.open() as stream:
        files = {line.split(",")[0]: line.strip().split("/")[-1] for line in list(stream)[1:]}
    for party in ("server", *laid.sites):
        text = "".join(p.read_text() for p in (laid.home / party).rglob("*") if p.is_file())
        for site, file in files.items():
            assert (file in text) == (site == party), (party, site)
    known = yaml.safe_load((laid.home / "site-01" / "pipeline.yaml").read_text())
    assert known["sites"]["train"][1].keys() <= {"name", "role", "description", "labels", "render", "density"}


def test_a_server_stopped_anywhere_goes_on_as_if_it_had_not_been(small, here, tmp_path):
    class Stop(BaseException):
        pass

    for stop in (2, 4):
        laid = lay_out(load_pipeline(small), "simulator", tmp_path / f"stop-{stop}")
        asked = []

        def ask(site, message, plain, stop=stop, asked=asked):
            asked.append(site)
            answer = plain(site, message)
            if len(asked) > stop:  # the site has done its work, and the server never hears of it
                raise Stop
            return answer

        with pytest.raises(Stop):
            spoken(laid, ask)
        assert spoken(laid) == {"done": True}
        same_result(here, laid.folder)


def test_a_network_that_cannot_take_the_patches_ends_the_run_before_a_site_is_asked(small, tmp_path):
    laid = lay_out(load_pipeline(small, ["model={backbone: vit_tiny_patch16_224}"]), "simulator", tmp_path / "far")
    never = lambda s, m: pytest.fail("asked")  # noqa: E731
    serve(laid.server, laid.sites, never, never)
    end = json.loads((laid.server / "ended.json").read_text())
    assert end["kind"] == "MedflError"
    assert "doesn't match model (224)" in end["message"]


def test_a_run_far_away_that_trains_nothing_has_failed(small, tmp_path):
    laid = lay_out(load_pipeline(small, ["training.rounds=1"]), "simulator", tmp_path / "far")

    def ask(site, message, plain):
        raise NoAnswer("away")

    end = spoken(laid, ask)
    assert end["kind"] == "RunFailed"
    assert "nothing was trained (round 0: site-01: away" in end["message"]
    assert not laid.folder.summary.exists()


def test_a_gate_that_cannot_be_passed_is_found_as_the_run_is_laid_out(small, tmp_path, monkeypatch):
    monkeypatch.setattr("medfl.data.partition.Partition.counts", lambda partition: ONE_CLASS)
    gated = load_pipeline(small, ["registry={name: x, gates: {held_out_auroc_min: 0.5}}"])
    with pytest.raises(MedflError, match="lung_n only"):
        lay_out(gated, "simulator", tmp_path / "far")
    assert not (tmp_path / "far").exists()


def test_an_absent_site_is_a_named_failure_and_joins_when_the_run_goes_on(small, tmp_path):
    class Stop(BaseException):
        pass

    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    asked = []

    def ask(site, message, plain):
        asked.append(site)
        if len(asked) == 2:
            raise Stop
        return plain(site, message)

    with pytest.raises(Stop):
        spoken(laid, ask, present=["site-01", "held-out-01"])
    assert spoken(laid) == {"done": True}
    failures = [record["failures"] for record in laid.folder.records()]
    assert failures == [[{"site": "site-02", "reason": "not connected"}], [], []]
    assert "site-02 is not connected" in (laid.server / "said.txt").read_text()


def test_a_site_that_cannot_start_says_so_without_a_path(small, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    (laid.home / "site-02" / "allocation.csv").unlink()
    assert spoken(laid) == {"done": True}
    said = (laid.server / "said.txt").read_text()
    assert "Site site-02 is not ready: MedflError at the site" in said
    assert str(tmp_path) not in said + laid.folder.rounds.read_text()
    assert "put the file that came with the kit back" in (laid.home / "site-02" / "medfl.log").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"versions": {"torch": "0.1"}}, "site site-01 has medfl none, the server"),
        ({"role": "held_out"}, "site site-01 says it is held_out"),
        ({"fingerprint": "0"}, "another model"),
        ({"time": time.time() - 4000}, "the clock of site site-01 is [34]"),
        ({"protocol": PROTOCOL + 1}, "another protocol"),
        ({"allocation": [{"file": "/a/b.png"}]}, "no training site is ready"),
    ],
)
def test_parties_that_do_not_agree_are_told_before_the_first_round(small, tmp_path, change, says):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    desk = SiteEndpoint(laid.home / "site-01", "site-01")

    def hello(site: str, message: bytes) -> bytes:
        return json.dumps(json.loads(desk.handshake(message)) | change).encode()

    serve(laid.server, ["site-01"], hello, lambda s, m: pytest.fail("asked"))
    end = json.loads((laid.server / "ended.json").read_text())
    assert end["kind"] == "MedflError"
    assert re.search(says, end["message"])


def test_a_site_is_told_what_it_has_to_change(small, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    desk, log = SiteEndpoint(laid.home / "site-01", "site-01"), laid.home / "site-01" / "medfl.log"

    def told(here=0.0, **changes) -> bytes:
        return json.dumps({"versions": versions() | changes, "time": time.time() + here}).encode()

    for odd in (told(), told(here=200), told(python="4"), b"[1]", b"{", b"{}", b'{"versions": 1, "time": []}'):
        desk.handshake(odd)
    assert not log.exists()
    desk.handshake(told(here=-1000, timm="9.9\x1b[2J"))
    one, two = log.read_text().splitlines()
    assert f"the server has timm 9.9?[2J and this site {versions()['timm']}; install timm==9.9" in one
    assert re.search(r"this clock is \+(999|100\d) s off the server's", two)
    assert NOTE.findall(log.read_text()) == [one[20:], two[20:]]


def test_a_message_that_the_server_has_given_up_is_not_worked_on(small, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    desk = SiteEndpoint(laid.home / "site-01", "site-01")
    desk.handshake()
    bounds = desk._ready.bounds
    request = EvaluateRequest(0, torch.zeros(bounds.weights), torch.zeros(bounds.buffers))
    answers = {}
    desk._lock.acquire()  # the site is busy
    threads = []
    for round_ in (0, 1):
        data = pack(dataclasses.replace(request, round=round_), bounds)
        threads.append(threading.Thread(target=lambda d=data, r=round_: answers.update({r: desk.handle(laid.run, d)})))
        threads[-1].start()
        while desk._asked != round_ + 1:
            time.sleep(0.001)
    desk._lock.release()
    for thread in threads:
        thread.join()
    assert b"overtaken" in answers[0]
    assert unpack_answer(answers[1], "site-01", 1, bounds) == Reply("site-01", 1)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MedflError, OSError])
def test_an_error_at_a_site_is_told_by_its_kind_only(small, tmp_path, monkeypatch, error):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    desk = SiteEndpoint(laid.home / "site-01", "site-01")
    desk.handshake()
    bounds = desk._ready.bounds

    def fail(request):
        raise error("cannot read /data/patient-7/a.png")

    monkeypatch.setattr(desk._ready.site, "handle", fail)
    request = TrainRequest(0, torch.zeros(bounds.weights), torch.zeros(bounds.buffers))
    answer = unpack_answer(desk.handle(laid.run, pack(request, bounds)), "site-01", 0, bounds)
    assert answer.reason == f"{error.__name__} at the site; its medfl.log says more"
    assert "patient-7" in (laid.home / "site-01" / "medfl.log").read_text()


def test_what_a_site_says_cannot_command_a_terminal(small, tmp_path):
    laid = lay_out(load_pipeline(small), "simulator", tmp_path / "far")
    words = json.dumps({"protocol": PROTOCOL, "site": "site-01", "problem": "\x1b[2Jgone"}).encode()
    serve(laid.server, ["site-01"], lambda s, m: words, lambda s, m: pytest.fail("asked"))
    assert "\x1b" not in (laid.server / "said.txt").read_text()


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch):
    import medfl.engines.nvflare.launch  # noqa: F401

    for name in ("launch", "flare_app"):
        monkeypatch.delitem(sys.modules, f"medfl.engines.nvflare.{name}")
        monkeypatch.delattr(f"medfl.engines.nvflare.{name}")
    monkeypatch.setitem(sys.modules, "nvflare.collab", None)
    with pytest.raises(MedflError, match=r"install it with `pip install \"medfl-pathology\[nvflare\]\"`"):
        launcher()


def test_pooled_training_is_refused_before_anything_is_written(small, tmp_path):
    with pytest.raises(MedflError, match="one process"):
        lay_out(load_pipeline(small, ["method=[]", "baseline=centralised"]), "poc", tmp_path / "far")
    assert not (tmp_path / "far").exists()
