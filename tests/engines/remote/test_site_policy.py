"""What a site permits: nothing before a person or a rule says so, and no more than its limits."""

import errno
import json

import pytest
import torch
import yaml

from medfl.engines.remote.codec import pack, unpack_answer
from medfl.engines.remote.party_files import read_site, write_site
from medfl.engines.remote.site_endpoint import SiteEndpoint
from medfl.engines.remote.site_policy import (
    NotApproved,
    NotPermitted,
    Questions,
    SitePolicy,
    approve,
    check_permitted,
    in_words,
    pipeline_digest,
    read_policy,
)
from medfl.errors import MedflError
from medfl.messages import EvaluateRequest, Failure, MeasureRequest, StainRequest, TrainRequest
from medfl.pipeline.load_pipeline import load_pipeline
from tests.datafiles import OWN, write_folders
from tests.engines.remote.test_endpoints import SMALL


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(pipeline, site) of a federation whose sites bring their own data."""
    folder = tmp_path_factory.mktemp("policy")
    root = write_folders(folder / "images", {"lung_aca": 20, "lung_n": 20})
    keys = {"task": {"classes": ["lung_aca", "lung_n"]}, "data": OWN, "description": "Two classes of lung."}
    keys["evaluation"] = {**SMALL.get("evaluation", {}), "subgroups": ["scanner", {"age": [50]}]}
    sites = {"train": [{"name": "north", "data": {"root": str(root)}}, {"name": "south", "data": {"root": str(root)}}]}
    (folder / "own.yaml").write_text(yaml.safe_dump({**SMALL, **keys, "sites": sites}))
    pipeline = load_pipeline(folder / "own.yaml")
    return pipeline, pipeline.train_sites[0]


@pytest.fixture
def party(written, tmp_path):
    write_site(tmp_path / "medfl", *written, None)
    return tmp_path / "medfl"


def test_nothing_runs_before_somebody_has_approved_that_very_pipeline(party):
    pipeline = read_site(party, "north")[0]
    digest = pipeline_digest(party)
    with pytest.raises(NotApproved, match=f"nobody at this site has approved the pipeline {digest[:12]} yet"):
        check_permitted(party, pipeline, "north")
    greeting = json.loads(SiteEndpoint(party, "north").handshake())
    assert "nobody at this site has approved" in greeting["problem"]
    for wrong in ("", digest[:11], "0" * 12, "\x1b[2J" * 3):
        with pytest.raises(MedflError, match=f"the pipeline here is {digest[:12]}; read it, then name that one"):
            approve(party, wrong)
    approve(party, digest[:12].upper())
    assert check_permitted(party, pipeline, "north") == SitePolicy()
    assert "problem" not in json.loads(SiteEndpoint(party, "north").handshake())
    text = (party / "pipeline.yaml").read_text()
    here = yaml.safe_load(text) | {"data": {**yaml.safe_load(text)["data"], "root": "/mnt/ward"}}
    (party / "pipeline.yaml").write_text(yaml.safe_dump(here))  # where the data lie is the site's business
    assert pipeline_digest(party) == digest
    (party / "pipeline.yaml").write_text(text.replace("rounds: 2", "rounds: 3"))
    with pytest.raises(NotApproved):  # a changed one asks again
        check_permitted(party, pipeline, "north")
    (party / "approved.json").write_text("[]")
    with pytest.raises(MedflError, match="is damaged; remove it, and approve the pipeline again"):
        check_permitted(party, pipeline, "north")


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        ({"methods": ["ecgr"]}, "`methods` does not have scaffold"),
        ({"max_rounds": 1}, "it has 2 rounds, `max_rounds` is 1"),
        ({"min_count": 5}, "its disclosure floor is 1, `min_count` is 5"),
        ({"max_epsilon": 8}, "it has no `dp` and no `training.dp_sgd`, and `max_epsilon` asks for one"),
        ({"subgroups": False}, "it asks for subgroups by scanner, age, and `subgroups` is false"),
        ({"members": False}, "`evaluation.members` is 1000 and not 0, `members` is false"),
        ({"splits": ["val"]}, "it asks for figures of test data, which `splits` does not have"),
        ({"splits": []}, "it asks for figures of test, val data, which `splits` does not have"),
        ({"methods": ["ecgr", "scaffold"], "max_rounds": 2, "min_count": 1}, None),
    ],
)
def test_a_rule_approves_what_keeps_it_and_forbids_the_rest(party, rules, broken):
    pipeline = read_site(party, "north")[0]
    (party / "policy.yaml").write_text(yaml.safe_dump({"approve": "rules"} | rules))
    if broken is None:
        assert check_permitted(party, pipeline, "north").approve == "rules"
    else:
        approve(party, pipeline_digest(party))  # no approval outweighs the policy
        with pytest.raises(NotPermitted, match=broken):
            check_permitted(party, pipeline, "north")


@pytest.mark.parametrize(("reference", "permitted"), [("fixed", True), ("federated", False)])
def test_a_stain_that_would_be_asked_for_is_refused_before_a_site_joins(party, reference, permitted):
    pipeline = read_site(party, "north")[0]
    normalise = {"method": "reinhard", "reference": reference}
    whole = pipeline.model_dump()
    asked = type(pipeline).model_validate(whole | {"data": whole["data"] | {"normalise": normalise}})
    (party / "policy.yaml").write_text("approve: rules\nstain: false\n")
    if permitted:
        check_permitted(party, asked, "north")
    else:
        with pytest.raises(NotPermitted, match=r"`data.normalise` or `training.augment.exchange` has the stain"):
            check_permitted(party, asked, "north")


def test_an_approval_that_cannot_be_kept_is_a_sentence(party, monkeypatch):
    monkeypatch.setattr("medfl.engines.remote.site_policy.write_text", read_only)
    with pytest.raises(MedflError, match=r"cannot be written: Read-only file system; put the kit where its user"):
        approve(party, pipeline_digest(party))


def read_only(*args):
    raise OSError(errno.EROFS, "Read-only file system")


def test_what_dp_spends_over_all_rounds_is_held_against_the_policy(party):
    pytest.importorskip("opacus")
    private = read_site(party, "north")[0].model_copy(update={"method": [{"name": "dp", "noise": 4.0}]})
    for most, permitted in ((1.0, False), (10.0, True)):
        (party / "policy.yaml").write_text(yaml.safe_dump({"approve": "rules", "max_epsilon": most}))
        if permitted:
            check_permitted(party, private, "north")
        else:
            with pytest.raises(NotPermitted, match=r"it spends an epsilon of \d+(\.\d+)?, `max_epsilon` is 1"):
                check_permitted(party, private, "north")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("approve: never", "policy.yaml: `approve`"),
        ("max_round: 3", 'Did you mean "max_rounds"'),
        ("splits: [holdout]", "policy.yaml: `splits"),
        ("- 1", "a policy file is a mapping"),
    ],
)
def test_a_policy_with_a_slip_is_refused_and_never_read_as_less(party, text, says):
    (party / "policy.yaml").write_text(text)
    with pytest.raises(MedflError, match=says):
        read_policy(party)


def question(kind=EvaluateRequest, round_=0, splits=("val",), **more):
    return kind(round_, torch.empty(0), torch.empty(0), splits, **more)


def test_questions_are_limited_by_kind_round_and_number():
    asked = Questions(SitePolicy(messages_a_round=4, members=False, stain=False), 2, [("run", 1), ("old", 2)])
    for refused, says in (
        (question(splits=("train",)), "does not permit figures of train data"),
        (question(round_=3), "round 3 of a pipeline that was approved with 2"),
        (question(MeasureRequest, 2, members=9), "to tell training patches from test patches"),
        (question(StainRequest, splits=("train",)), "numbers on the stain"),
    ):
        with pytest.raises(NotPermitted, match=says):
            asked.check("run", refused)
    for _ in range(3):  # one was answered before this process began
        asked.check("run", question(round_=1))
    with pytest.raises(NotPermitted, match="more than 4 questions in round 1"):
        asked.check("run", question(round_=1))
    asked.check("other", question(round_=1))
    Questions(SitePolicy(), 2, []).check("run", question(StainRequest, splits=("train",)))


def test_a_server_that_asks_too_often_gets_a_sentence_and_both_are_on_record(party):
    approve(party, pipeline_digest(party))
    (party / "policy.yaml").write_text("messages_a_round: 4\n")
    desk = SiteEndpoint(party, "north")
    desk.handshake()
    bounds = desk._ready.bounds
    request = EvaluateRequest(0, torch.zeros(bounds.weights), torch.zeros(bounds.buffers), ("val",))
    answers = [unpack_answer(desk.handle("run", pack(request, bounds)), "north", 0, bounds) for _ in range(5)]
    assert [isinstance(answer, Failure) for answer in answers] == [False] * 4 + [True]
    assert answers[-1].reason == "more than 4 questions in round 0"
    again = SiteEndpoint(party, "north")  # another process remembers
    assert isinstance(unpack_answer(again.handle("run", pack(request, bounds)), "north", 0, bounds), Failure)
    events = [json.loads(line) for line in (party / "audit.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in events] == ["greeted", *["answered"] * 4, *["refused"] * 2]
    assert events[-1]["facts"]["reason"] == "more than 4 questions in round 0"
    whole = (party / "audit.jsonl").read_text()
    assert not any(name in whole for name in (str(party), ".png", "lung_aca"))


def test_the_plan_is_told_in_words(party):
    pipeline = read_site(party, "north")[0]
    words = list(in_words(party, pipeline, "north"))
    assert words[0] == "small: Two classes of lung."
    assert words[1] == "Classes: lung_aca, lung_n. Other sites: south."
    assert words[2].startswith("north trains in 2 rounds; method: ecgr+scaffold.")
    assert words[4] == "Figures of subgroups leave, too, with the words of these columns: scanner, age."
    assert words[-1].startswith(f"Pipeline {pipeline_digest(party)[:12]}")


def test_a_site_can_ask_for_masked_sums(party):
    pipeline = read_site(party, "north")[0]
    approve(party, pipeline_digest(party)[:12])
    (party / "policy.yaml").write_text("secure_aggregation: true\n")
    with pytest.raises(NotPermitted, match="`secure_aggregation` asks for masked sums"):
        check_permitted(party, pipeline, "north")
    masked = pipeline.model_copy(update={"training": pipeline.training.model_copy(update={"secure_aggregation": True})})
    assert check_permitted(party, masked, "north").secure_aggregation
    assert "behind masks: the server sees the sites' sum" in "\n".join(in_words(party, masked, "north"))


def test_a_site_trains_no_more_rounds_than_its_patients_budget_lasts_for():
    """Whatever the server repeats, and over restarts of the site's process."""
    request = TrainRequest(0, torch.zeros(0), torch.zeros(0))
    asked = Questions(SitePolicy(), 3, (), ["run", "other"], budgeted=True)
    for _ in range(2):
        asked.check("run", request)
    with pytest.raises(NotPermitted, match="3 rounds were trained, and the budget of its patients is spent"):
        asked.check("run", request)
    asked.check("run", EvaluateRequest(0, torch.zeros(0), torch.zeros(0)))
