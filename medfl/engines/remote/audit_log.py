"""What a party was asked and what left it: a file that grows by one signed entry a message, each over the one before.

A line of `audit.jsonl` is one entry as JSON: `number` from 1, `at` (UTC), `event`, `facts`, `previous` (SHA-256 of the
line before; zeros before the first), and with a kit `signature`, by the key of its certificate, over all of that.
`audit.end` has number and SHA-256 of the last line, so that lines that are missing at the end show. Facts are names of
figures, shapes, counts, bytes and digests: no patient, path or score.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

from medfl.data.atomic_file import open_private, write_text
from medfl.data.file_lock import lock_file
from medfl.engines.remote.kit_signature import has_signed, kit_key, read_certificate, sign
from medfl.messages import Reply, Request
from medfl.plain_text import visible

AUDIT, END = "audit.jsonl", "audit.end"
BEGIN = "0" * 64
TAIL = 1 << 20  # bytes; longer than any entry
LOST = "entries_cut_off"
PARTS = {"number", "at", "event", "facts", "previous"}


class AuditLog:
    """The log of one party. Threads and processes may write to one at the same time.

    Args:
        folder: the party's folder; in a kit the one beside `startup`, whose key signs.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / AUDIT
        self._key = kit_key(folder.parent / "startup")
        self._lock = Lock()

    def write(self, event: str, **facts: Any) -> None:
        """Add an entry, and have the disk hold it before this returns. Raises OSError."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, open(self.file, "a+b", opener=open_private) as stream:
            lock_file(stream.fileno(), wait=True)
            torn, last = _last_line(stream)
            if last and (before := _entry(last)) is None:
                raise OSError(
                    f"the last line of {self.file} is no entry, so none can follow it; keep the file elsewhere"
                )
            number, previous = (before["number"], _hash(last)) if last and before else (0, BEGIN)
            if torn:  # a process was killed while it wrote
                stream.truncate(stream.seek(0, os.SEEK_END) - len(torn))
                facts["dropped_bytes"] = len(torn)
            if (lost := _noted(self.file.with_name(END)) - number) > 0:  # what was cut off stays on record
                facts[LOST] = lost
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            entry = {"number": number + 1, "at": at, "event": event, "facts": facts, "previous": previous}
            if self._key is not None:
                entry["signature"] = base64.b64encode(sign(self._key, _canonical(entry))).decode()
            line = _canonical(entry)
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            write_text(self.file.with_name(END), json.dumps({"number": number + 1, "sha256": _hash(line)}) + "\n")


@dataclass(frozen=True)
class Verification:
    """What became of checking a log.

    Attributes:
        entries: how many there are.
        signed: how many of them have a good signature.
        problems: a sentence each; none where all is well.
    """

    entries: int
    signed: int
    problems: list[str] = field(default_factory=list)


def verify(file: Path, certificate: Path | None = None) -> Verification:
    """Look for entries that were changed, are missing or stand in another order.

    Args:
        certificate: whose key must have signed every entry; None where the party has no kit.

    Raises:
        OSError: the file cannot be read.
    """
    public = read_certificate(certificate).public_key() if certificate else None
    problems: list[str] = []
    number, line, signed = 0, b"", 0
    for at, (entry, following) in enumerate(_lines(file), 1):
        if entry is None:
            problems.append(f"line {at} is no entry")
            number, line = number + 1, following
            continue
        if entry["number"] != number + 1:
            problems.append(_gap(number, entry["number"]))
        elif entry["previous"] != (_hash(line) if line else BEGIN):
            problems.append(
                f"entry {number} was changed after entry {number + 1} was written"
                if number
                else "entry 1 is not the first that was written"
            )
        if lost := entry["facts"].get(LOST):
            problems.append(
                f"{lost} entries had been cut off behind entry {number} when entry {number + 1} was written"
            )
        if public is not None:
            bare = {part: value for part, value in entry.items() if part != "signature"}
            if has_signed(public, _decoded(entry.get("signature")), _canonical(bare)):
                signed += 1
            else:
                problems.append(f"entry {entry['number']} was changed: its signature is not that of the kit")
        number, line = entry["number"], following
    problems += _at_the_end(file.with_name(END), number, line)
    return Verification(number, signed, list(dict.fromkeys(problems)))


def certificate_beside(file: Path) -> Path | None:
    """The certificate of the kit that a log lies in, if it lies in one."""
    startup = file.absolute().parent.parent / "startup"
    return next((startup / name for name in ("client.crt", "server.crt") if (startup / name).is_file()), None)


def entries(file: Path) -> Iterator[Mapping[str, Any]]:
    """The entries of a log that can be read, in their order. Raises OSError."""
    return (entry for entry, _ in _lines(file) if entry is not None)


def sentence(entry: Mapping[str, Any]) -> str:
    """An entry as a line for people."""
    try:
        return _sentence(entry)
    except (KeyError, TypeError, ValueError, AttributeError):  # changed by hand: `verify` says so
        return visible(f"{entry['number']:>6}  cannot be read; `medfl audit verify` says whether it was changed")


def _sentence(entry: Mapping[str, Any]) -> str:
    facts = entry["facts"]
    words = [f"{entry['number']:>6}  {entry['at']}  {entry['event']:<9}", _question(facts)]
    if "reason" in facts:
        words.append(facts["reason"])
    if "bytes_out" in facts:
        words.append(f"{facts['bytes_out']:,} bytes left{_named(facts)}")
    words += [f"{key} {facts[key]}" for key in ("serial", "pipeline", "problem", "sites") if key in facts]
    return visible("  ".join(word for word in words if word))


def _question(facts: Mapping[str, Any]) -> str:
    if "kind" not in facts:
        return str(facts.get("site", ""))
    whose = f"{facts['site']} " if "site" in facts else ""
    splits = f" on {', '.join(facts['splits'])}" if facts.get("splits") else ""
    return f"{whose}{facts['kind']}, round {facts['round']}{splits}"


def _named(facts: Mapping[str, Any]) -> str:
    parts = [f"{name} of {count:,} numbers" for name, count in facts.get("vectors", {}).items()]
    if "masking" in facts:
        parts.append(f"masking: {', '.join(facts['masking'])}")
    for part in ("metrics", "sums", "curves"):
        parts += [f"{len(names)} {part} of {split}" for split, names in facts.get(part, {}).items()]
    if floors := facts.get("withheld_classes"):
        parts += [f"{count} classes of {split} withheld" for split, count in floors.items()]
    return f": {', '.join(parts)}" if parts else ""


def asked(request: Request, run: str, size: int) -> dict[str, Any]:
    """What is noted of a request that came in `size` bytes."""
    kind = type(request).__name__.removesuffix("Request").lower()
    return {"run": run, "kind": kind, "round": request.round, "splits": list(request.splits), "bytes_in": size}


def left(reply: Reply, size: int) -> dict[str, Any]:
    """What is noted of an answer of `size` bytes: its vectors' lengths, the names of its figures and sums by split, and
    how many classes the disclosure floor withheld."""
    noted: dict[str, Any] = {"bytes_out": size}
    if vectors := {name: vector.numel() for name, vector in reply.vectors().items()}:
        noted |= {"vectors": vectors, "patches": reply.samples, "steps": reply.steps}
    if reply.masking:
        noted["masking"] = sorted(reply.masking)
    for part in ("metrics", "sums", "curves"):
        if named := {split: sorted(figures) for split, figures in getattr(reply, part).items()}:
            noted[part] = named
    if floors := {split: figures["withheld"] for split, figures in reply.metrics.items() if figures.get("withheld")}:
        noted["withheld_classes"] = {
            split: "all" if floor["all"] else len(floor["classes"]) for split, floor in floors.items()
        }
    return noted


def _gap(before: int, here: int) -> str:
    if here <= before:
        return f"entry {here} stands after entry {before}: it was moved, or written twice"
    if here == before + 2:
        return f"entry {before + 1} is missing"
    return f"entries {before + 1} to {here - 1} are missing"


def _at_the_end(file: Path, number: int, line: bytes) -> list[str]:
    try:
        end = json.loads(file.read_text(encoding="utf-8"))
        noted, digest = int(end["number"]), str(end["sha256"])
    except FileNotFoundError:
        return [] if number == 0 else [f"{file.name} is missing, so entries may be missing at the end"]
    except (ValueError, KeyError, TypeError):
        return [f"{file.name} is damaged, so entries may be missing at the end"]
    if noted > number:
        return [_gap(number, noted + 1)]
    if noted == number and digest != _hash(line):
        return [f"entry {number} was changed after it was written"]
    return []  # one entry more than noted: a process was killed between the two


def _noted(file: Path) -> int:
    """The number of the last entry by `audit.end`; 0 where it says nothing."""
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _lines(file: Path) -> Iterator[tuple[dict[str, Any] | None, bytes]]:
    with open(file, "rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return  # torn by a process that was killed; the next one cuts it off
            yield _entry(line), line[:-1]


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry that a line is; None where it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not entry.keys() >= PARTS or type(entry["number"]) is not int:
        return None
    return entry if isinstance(entry["facts"], dict) else None


def _last_line(stream: Any) -> tuple[bytes, bytes]:
    """What stands behind the last end of a line, and the last whole line."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - TAIL))
    *whole, torn = stream.read().split(b"\n")
    stream.seek(0, os.SEEK_END)
    return torn, whole[-1] if whole else b""


def _canonical(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def _hash(line: bytes) -> str:
    return sha256(line).hexdigest()


def _decoded(signature: Any) -> bytes:
    try:
        return base64.b64decode(str(signature), validate=True)
    except ValueError:
        return b""
