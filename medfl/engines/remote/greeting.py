"""The first words of both ends: which software and clock a party has, and what a site says of itself.

What comes in is read into these classes part by part; a part that is not as it must be is one sentence, and parts that
nobody asked for are dropped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from medfl.data.bag_store import UNSTATED, FeatureOrigin
from medfl.engines.remote.codec import PROTOCOL
from medfl.errors import MedflError
from medfl.metrics.figure_checks import brief, count, number, truth
from medfl.plain_text import printable
from medfl.runs.versions import versions

MUST_AGREE = ("medfl", "torch", "torchvision", "timm")
MAX_SKEW = 300.0  # seconds
GREETING_LIMIT = 64_000_000  # bytes; 20 a source group
WORD = 64  # characters of a version, a fingerprint or a name
REASON = 300
SCOPES = ("published", "own", "slides")
ROLES = ("train", "held_out")
SPLITS = ("train", "val", "test")
HEXADECIMAL = re.compile(r"[0-9a-f]{0,64}")

AllocationRow = Mapping[str, str | int]
"""A line of allocation_summary.csv."""
COLUMNS = {"site", "role", "split", "class", "groups", "patches", "digest"}


class BadGreeting(ValueError):
    """First words that cannot be read; the message is one sentence."""


@dataclass(frozen=True)
class Installation:
    """Software and clock of a party: the versions that must agree, and seconds since 1970."""

    versions: Mapping[str, str]
    time: float

    @staticmethod
    def here() -> Installation:
        """Those of this process, now."""
        return Installation(_own_versions(), time.time())

    def encode(self) -> bytes:
        """As JSON; `decode` reads it."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Installation:
        """Raises BadGreeting."""
        return Installation.read(_object(data))

    @staticmethod
    def read(facts: Mapping[str, Any]) -> Installation:
        """From the parts of first words. Raises BadGreeting."""
        listed = facts.get("versions")
        if not isinstance(listed, dict):
            raise BadGreeting("`versions` is no mapping")
        versions = {name: _word(listed.get(name, "none"), f"versions.{brief(name)}") for name in MUST_AGREE}
        return Installation(versions, _seconds(facts.get("time")))

    def other_versions(self, other: Installation) -> list[tuple[str, str, str]]:
        """(package, version here, version there) of each that differs."""
        return [
            (name, self.versions[name], other.versions[name])
            for name in MUST_AGREE
            if self.versions[name] != other.versions[name]
        ]

    def skew(self, other: Installation) -> float:
        """Seconds by which this clock is ahead of the other; 0 where that is no matter."""
        ahead = self.time - other.time
        return ahead if abs(ahead) > MAX_SKEW else 0.0


@dataclass(frozen=True)
class SiteGreeting:
    """What a site that is ready says of itself.

    Attributes:
        site, role: its name and role.
        installation: its software and clock.
        fingerprint: of the model that it builds.
        frozen: sha256 of what does not train in it, "" where all does.
        leaky: whether its source groups are unknown.
        allocation: what it holds, by split and class.
        groups: keyed hashes of its source groups, by scope, and of its slides' content.
        origin: what made its features, where it holds bags of them.
    """

    site: str
    role: str
    installation: Installation
    fingerprint: str
    frozen: str
    leaky: bool
    allocation: tuple[AllocationRow, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    origin: FeatureOrigin = UNSTATED

    def encode(self) -> bytes:
        """As JSON; `decode` reads it."""
        facts = asdict(self)
        return json.dumps({"protocol": PROTOCOL, **facts.pop("installation"), **facts}).encode()

    @staticmethod
    def decode(data: bytes, site: str, classes: Collection[str]) -> SiteGreeting | str:
        """What the site of this name says of itself, or its one sentence on why it is not ready.

        Raises:
            BadGreeting: what cannot be read. MedflError: another protocol, so another version of medfl.
        """
        facts = _object(data)
        if facts.get("protocol") != PROTOCOL:
            raise MedflError(f"site {site} speaks another protocol; install the same version of medfl there")
        if facts.get("site") != site:
            raise BadGreeting("it speaks for another site")
        if "problem" in facts:
            return printable(str(facts["problem"]), REASON)
        role = facts.get("role")
        if role not in ROLES:
            raise BadGreeting(f"`role` is {brief(role)}, not one of {', '.join(ROLES)}")
        return SiteGreeting(
            site=site,
            role=str(role),
            installation=Installation.read(facts),
            fingerprint=_word(facts.get("fingerprint"), "fingerprint"),
            frozen=_digest(facts.get("frozen"), "frozen"),
            leaky=_checked(truth, facts.get("leaky"), "leaky"),
            allocation=_allocation(facts.get("allocation"), site, classes),
            groups=_groups(facts.get("groups")),
            origin=_origin(facts.get("origin")),
        )


@cache
def _own_versions() -> Mapping[str, str]:
    own = versions()  # without build labels: `+cpu` and `+cu132` are one torch
    return {name: own[name].partition("+")[0] for name in MUST_AGREE}


def problem(site: str, sentence: str) -> bytes:
    """The first words of a site that cannot take part."""
    return json.dumps({"protocol": PROTOCOL, "site": site, "problem": sentence}).encode()


def _object(data: bytes) -> dict[str, Any]:
    if not isinstance(data, bytes) or len(data) > GREETING_LIMIT:
        raise BadGreeting(f"it is no message of at most {GREETING_LIMIT:,} bytes")
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        raise BadGreeting("it is no JSON") from None
    if not isinstance(facts, dict):
        raise BadGreeting("it is no object")
    return facts


def _checked(check: Any, value: Any, where: str) -> Any:
    try:
        check(value, where)
    except ValueError as error:
        raise BadGreeting(str(error)) from None
    return value


def _word(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > WORD:
        raise BadGreeting(f"`{where}` is {brief(value)} and must be a word of at most {WORD} letters")
    return printable(value, WORD)


def _digest(value: Any, where: str) -> str:
    if not isinstance(value, str) or not HEXADECIMAL.fullmatch(value):
        raise BadGreeting(f"`{where}` is no digest")
    return value


def _seconds(value: Any) -> float:
    return float(_checked(number(0.0, 1e11), value, "time"))


def _allocation(rows: Any, site: str, classes: Collection[str]) -> tuple[AllocationRow, ...]:
    """The rows, one at most for each split and class. Raises BadGreeting; MedflError for a class of another run."""
    if not isinstance(rows, list):
        raise BadGreeting("`allocation` is no list")
    taken: dict[tuple[str, str], AllocationRow] = {}
    for row in rows:
        if not isinstance(row, dict) or row.keys() != COLUMNS:
            raise BadGreeting("`allocation` has a row of other columns")
        if row["site"] != site or row["role"] not in ROLES or row["split"] not in SPLITS:
            raise BadGreeting("`allocation` has a row of another site, or of no role or split")
        if not isinstance(row["class"], str) or row["class"] not in classes:
            raise MedflError(f"site {site} has other classes than the pipeline; renew its kit from this pipeline")
        for name in ("groups", "patches"):
            if row[name] != "":  # withheld: a class of few source groups
                _checked(count, row[name], f"allocation.{name}")
        _digest(row["digest"], "allocation.digest")
        if taken.setdefault((row["split"], row["class"]), row) != row:
            raise BadGreeting("`allocation` has two rows of one split and class")
    return tuple(taken.values())


def _origin(parts: Any) -> FeatureOrigin:
    if not isinstance(parts, dict):
        raise BadGreeting("`origin` is no mapping")
    return FeatureOrigin(*(_word(parts.get(name, ""), f"origin.{name}") for name in ("encoder", "tile")))


def _groups(keyed: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(keyed, dict) or not keyed.keys() <= set(SCOPES):
        raise BadGreeting(f"`groups` is no mapping of {' and '.join(SCOPES)}")
    for hashes in keyed.values():
        if not isinstance(hashes, list) or any(
            not isinstance(each, str) or len(each) != 16 or not HEXADECIMAL.fullmatch(each) for each in hashes
        ):
            raise BadGreeting("`groups` is no list of keyed hashes")
    return {scope: tuple(hashes) for scope, hashes in keyed.items()}
