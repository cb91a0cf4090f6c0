"""Whatever a site says of itself, the server goes on or refuses it in one sentence that names the site."""

import json
import random
import time

import pytest

from medfl.engines.remote import greeting as module
from medfl.engines.remote import server_endpoint
from medfl.engines.remote.greeting import BadGreeting, Installation, SiteGreeting, problem
from medfl.engines.remote.server_endpoint import handshake_sites
from medfl.errors import MedflError
from tests.metrics.test_figure_checks import leaves, part, replaced

CLASSES = ("a", "b")
ROW = {"site": "east", "role": "train", "split": "train", "class": "a", "groups": 3, "patches": 9, "digest": "0f" * 8}
ODD = ("", "x" * 999, "\x1b[2J\n", -1, 10**400, 1e308, None, True, [], {}, [[]], {"a": {}}, "\ud800", 0.5)


def greeting(site="east", **changes):
    facts = {"role": "train", "installation": Installation.here(), "fingerprint": "f00d", "frozen": "0f"}
    facts |= {"leaky": False, "allocation": ({**ROW, "site": site},), "groups": {"own": ("0" * 16,)}}
    return SiteGreeting(site, **facts | changes)


def greeted(words, say=lambda text: None):
    """What the server makes of first words, by site."""
    known = dict.fromkeys(words, "train")
    return handshake_sites(known, words, lambda name, mine: words[name], "f00d", "0f", CLASSES, say)


def test_it_comes_back_as_it_was():
    one = greeting()
    assert SiteGreeting.decode(one.encode(), "east", CLASSES) == one
    assert SiteGreeting.decode(problem("east", "\x1b no data"), "east", CLASSES) == "? no data"
    assert Installation.decode(one.installation.encode()) == one.installation


@pytest.mark.parametrize("times", [250, pytest.param(50_000, marks=pytest.mark.slow)])
def test_nothing_that_a_site_says_stops_the_server_without_a_sentence(times):
    """A seeded fuzz: any part replaced, dropped or added, and bytes cut or flipped."""
    draw, west = random.Random(7), greeting("west", groups={}).encode()
    whole = json.loads(greeting().encode())
    paths = [path for path in leaves(whole) if path] + [("allocation", 0), ("groups", "own"), ("versions",)]
    for _ in range(times):
        facts = replaced(whole, draw.choice(paths), draw.choice(ODD))
        if draw.random() < 0.2:
            facts.pop(draw.choice(list(facts)))
        facts = facts if draw.random() < 0.95 else draw.choice(ODD)
        words = bytearray(json.dumps(facts).encode())
        if draw.random() < 0.2:
            at = draw.randrange(len(words))
            words[at:] = words[at + draw.randrange(40) :] if draw.random() < 0.5 else bytes([draw.randrange(256)])
        said, refusals = [], []
        try:
            heard = greeted({"east": bytes(words), "west": west}, said.append)
            assert "west" in heard.present
            assert ("east" in heard.present) == (not said)
        except MedflError as error:
            refusals = [str(error)]
        assert all("site east" in text.lower() for text in said + refusals)
        assert all(text.isprintable() and len(text) < 500 for text in said + refusals)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("time",), 10**400, "`time` is 1000"),
        (("time",), "noon", "`time` is noon"),
        (("role",), [], "`role` is"),
        (("fingerprint",), 3, "`fingerprint` is 3"),
        (("leaky",), "no", "`leaky` is no and must be true or false"),
        (("versions",), [], "`versions` is no mapping"),
        (("versions", "torch"), 2, "`versions.torch` is 2"),
        (("allocation", 0, "patches"), -1, "`allocation.patches` is -1"),
        (("allocation", 0, "split"), "all", "another site, or of no role or split"),
        (("allocation", 0, "site"), "west", "another site, or of no role or split"),
        (("allocation", 0, "digest"), "/data/p7", "is no digest"),
        (("groups", "own"), ["patient-1"], "no list of keyed hashes"),
        (("groups",), {"more": []}, "`groups` is no mapping of"),
        (("site",), "west", "speaks for another site"),
    ],
)
def test_each_part_is_checked_and_named(path, value, says):
    whole = json.loads(greeting().encode())
    assert part(whole, path) != value
    words, said = json.dumps(replaced(whole, path, value)).encode(), []
    heard = greeted({"east": words, "west": greeting("west", groups={}).encode()}, said.append)
    assert heard.present == {"west"}
    assert len(said) == 1
    assert said[0].startswith("Site east is not ready: what it says of itself cannot be read: ")
    assert says in said[0]


def test_what_nobody_asked_for_is_dropped():
    whole = json.loads(greeting().encode()) | {"note": "/data/p7"}
    whole["versions"] |= {"kernel": "x" * 9999}
    assert set(SiteGreeting.decode(json.dumps(whole).encode(), "east", CLASSES).installation.versions) == {
        "medfl",
        "torch",
        "torchvision",
        "timm",
    }


def test_build_labels_are_not_compared(monkeypatch):
    """A site without a GPU has torch `2.9.0+cpu` and the server `2.9.0`: the same release."""
    monkeypatch.setattr(module, "versions", lambda: dict.fromkeys(module.MUST_AGREE, "2.9.0+cpu"))
    assert module._own_versions.__wrapped__() == dict.fromkeys(module.MUST_AGREE, "2.9.0")


def test_versions_and_clocks_are_compared_in_one_way():
    here = Installation.here()
    other = Installation({**here.versions, "timm": "9"}, here.time - 400)
    assert here.other_versions(other) == [("timm", here.versions["timm"], "9")]
    assert here.skew(other) == pytest.approx(400)
    assert other.skew(here) == pytest.approx(-400)
    assert here.skew(Installation(here.versions, here.time - 200)) == 0
    for words in (b"", b"[]", b"{}", b'{"versions": 1, "time": []}', b'{"versions": {}, "time": 1e999}', b"[" * 10**6):
        with pytest.raises(BadGreeting):
            Installation.decode(words)
    assert abs(time.time() - here.time) < 60
    assert not hasattr(server_endpoint, "MUST_AGREE")
