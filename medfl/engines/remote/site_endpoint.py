"""The site's end of the line: it builds its own `Site`, answers messages in bytes, and tells no more than it must."""

from __future__ import annotations

import hmac
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medfl.data.bag_store import UNSTATED, BagStore
from medfl.data.partition import Partition, SitePartition
from medfl.data.render import warn_of_resolution
from medfl.engines.remote.admission import revoked_here, with_proof
from medfl.engines.remote.audit_log import AUDIT, AuditLog, asked, entries, left
from medfl.engines.remote.codec import BadMessage, Bounds, pack, unpack_request
from medfl.engines.remote.greeting import BadGreeting, Installation, SiteGreeting, problem
from medfl.engines.remote.kit_identity import kit_identity
from medfl.engines.remote.party_files import KEY, group_key, read_site
from medfl.engines.remote.pieces import MAGIC, BadPiece, Message, PieceDesk
from medfl.engines.remote.site_policy import NotPermitted, Questions, check_permitted, pipeline_digest
from medfl.engines.remote.site_state import SiteStateFile, StateLost
from medfl.errors import MedflError
from medfl.messages import Failure
from medfl.pipeline.build_site import build_sites, checked_shared_model
from medfl.pipeline.site_stores import SiteStores
from medfl.plain_text import visible
from medfl.runs.data_record import data_key, disclosed_summary
from medfl.site.evaluator import SiteDiverged
from medfl.site.masked_site import MaskedSite
from medfl.site.masking import MaskRefused
from medfl.site.site import Site

LOG = "medfl.log"
TOLD = (SiteDiverged, StateLost, BadMessage, BadPiece, NotPermitted, MaskRefused)
"""Their sentences are made of numbers and names only."""


@dataclass
class _Ready:
    site: Site
    bounds: Bounds
    greeting: SiteGreeting
    questions: Questions
    state_file: SiteStateFile | None = None


class SiteEndpoint:
    """Answers for one site. One message is worked on at a time; another waits for it.

    Args:
        folder: the party's folder (see `medfl.engines.remote.party_files`).
        name: the site's name, as its certificate states it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.audit = AuditLog(folder)
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._ready: _Ready | None = None
        self._problem = ""
        self._asked = 0
        self._pieces = PieceDesk()

    def handshake(self, server: bytes = b"") -> bytes:
        """Who is here, as JSON: versions, the model's fingerprint, role, counts of patches, the clock; or a problem.

        Builds the site at the first call, which may render its patches.

        Args:
            server: the server's versions and clock, as JSON; what differs here is noted in this party's log.
        """
        with self._lock:
            self._compare(server)
            revoked = revoked_here(self.folder, self.name, server)
            if revoked is None:
                self._build()
            else:
                self._note(f"{revoked}\n")
                self._problem = "its kit is revoked"
            greeting = None if self._ready is None or revoked else self._ready.greeting
            facts: dict[str, Any] = {"problem": self._problem}
            if greeting is not None:
                groups = {scope: len(hashes) for scope, hashes in greeting.groups.items()}
                facts = {"pipeline": pipeline_digest(self.folder), "counts": len(greeting.allocation), "groups": groups}
            try:
                self.audit.write("greeted", **facts)
            except OSError as error:
                return problem(self.name, self._reason(error))
            if greeting is None:
                return problem(self.name, self._problem)
            answer = replace(greeting, installation=Installation.here()).encode()
            return with_proof(self.folder, self.name, server, answer)

    def handle(self, run: str, message: bytes) -> bytes:
        """The answer to a request of a run, as bytes, or to a piece of one (`medfl.engines.remote.pieces`). Never
        raises: what goes wrong is a failure without details, which are in this party's log."""
        if self._ready is None and message.startswith(MAGIC):  # what a piece may belong to, the model says
            with self._lock:
                self._build()
            if self._ready is None:
                return self._failed(0, self._problem)
        limit = 0 if self._ready is None else self._ready.bounds.message
        try:
            return self._pieces.answered(message, limit, partial(self._answer, run))
        except Exception as error:
            return self._failed(0, self._reason(error))

    def _answer(self, run: str, message: Message) -> Message:
        round_ = 0
        with self._counting:
            self._asked += 1
            mine = self._asked
        with self._lock:
            if mine != self._asked:  # the server has given this one up, or it would not have sent another
                return self._failed(round_, "overtaken by a later message")
            self._build()
            if self._ready is None:
                return self._failed(round_, self._problem)
            ready = self._ready
            question: dict[str, Any] = {"run": visible(run), "bytes_in": len(message)}
            try:
                request = unpack_request(message, ready.bounds)
                round_, question = request.round, asked(request, run, len(message))
                ready.questions.check(run, request)
                file = self._state_file(ready, run)
                file.settle(request)
                try:
                    reply = ready.site.handle(request)
                finally:
                    file.save()
                if reply.trained:
                    file.create()
                answer = pack(reply, ready.bounds)
                self.audit.write("answered", **question, **left(reply, len(answer)))  # before it leaves
                return answer
            except Exception as error:
                reason = self._reason(error)
                with suppress(OSError):
                    self.audit.write("refused", **question, reason=reason)
                return self._failed(round_, reason)

    def _failed(self, round_: int, reason: str) -> bytes:
        """A failure as bytes; a sentence is no long message."""
        failed = pack(Failure(self.name, round_, reason), Bounds(0, 0))
        assert isinstance(failed, bytes)
        return failed

    def _state_file(self, ready: _Ready, run: str) -> SiteStateFile:
        if not run.isalnum() or len(run) > 64:
            raise BadMessage("the run has no proper name")
        if ready.state_file is None or ready.state_file.file.stem != run:
            ready.state_file = SiteStateFile(self.folder / "state", run, ready.site)
        return ready.state_file

    def _build(self) -> None:
        """Build the site if it is not yet; a problem is told in one sentence without details."""
        if self._ready is None:
            try:
                self._ready = build(self.folder, self.name)
            except Exception as error:
                self._problem = self._reason(error)

    def _compare(self, server: bytes) -> None:
        """Note where the server has other versions or another time: it will refuse this site, which can mend that."""
        try:
            there = Installation.decode(server)
        except BadGreeting:
            return
        here = Installation.here()
        for package, mine, theirs in here.other_versions(there):
            self._note(f"the server has {package} {theirs} and this site {mine}; install {package}=={theirs}\n")
        if skew := here.skew(there):
            self._note(f"this clock is {skew:+.0f} s off the server's; set both by a time server\n")

    def _note(self, text: str) -> None:
        """A line, or more, in the log that stays here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(time.strftime("%Y-%m-%d %H:%M:%S ") + visible(text, lines=True))

    def _reason(self, error: Exception) -> str:
        """One sentence for the server; the whole story goes into the log."""
        expected = isinstance(error, MedflError)
        self._note(f"{error}\n" if expected else "".join(traceback.format_exception(error)))
        if isinstance(error, TOLD):
            return str(error)
        return f"{type(error).__name__} at the site; its {LOG} says more"


def build(folder: Path, name: str) -> _Ready:
    """The site of a party's folder, and what may be told of it.

    Raises:
        MedflError: files, data, model or device that are not as they should be.
    """
    pipeline, site_config, share = read_site(folder, name)
    policy = check_permitted(folder, pipeline, name)
    bench = checked_shared_model(pipeline)
    warn_of_resolution(pipeline, [site_config])
    store = SiteStores(pipeline).of(site_config, share)
    site = build_sites(pipeline, {name: store}, bench)[name]
    if isinstance(site, MaskedSite):
        site.masking.identity = kit_identity(folder)
    greeting = SiteGreeting(
        site=name,
        role=site.role,
        installation=Installation.here(),
        fingerprint=bench.model.fingerprint(),
        frozen=bench.model.frozen_digest(),
        leaky=share.catalog.groups_unknown,
        allocation=tuple(disclosed_summary(pipeline, Partition((share,)), data_key(folder, pipeline.cache_dir))),
        groups=keyed_groups(share, folder / KEY),
        origin=store.origin if isinstance(store, BagStore) else UNSTATED,
    )
    audit = folder / AUDIT
    before = entries(audit) if audit.is_file() else ()
    answered = [one["facts"] for one in before if one["event"] == "answered"]
    earlier = [(facts["run"], facts["round"]) for facts in answered]
    trained = [facts["run"] for facts in answered if facts["kind"] == "train"]
    budgeted = pipeline.training.dp_sgd is not None
    questions = Questions(policy, pipeline.training.rounds, earlier, trained, budgeted)
    return _Ready(site, Bounds.of(bench.model), greeting, questions)


def keyed_groups(share: SitePartition, file: Path) -> dict[str, tuple[str, ...]]:
    """HMAC-SHA256 (64 bits of it, hexadecimal) of the source groups' names under the consortium's key, which the server
    does not have: by scope "published" where names mean the same everywhere, "own" where they are the site's own. Where
    a site has slides, or features of slides, those of the digests of their files besides: "slides". Empty where there
    is no key.
    """
    if not file.is_file():
        return {}
    key, catalog = group_key(file), share.catalog
    scope = "published" if catalog.published else "own"
    words = {scope: sorted({catalog.group_names[group] for group in catalog.groups[share.rows]})}
    if slides := catalog.source.slide_prints(share.references):
        words["slides"] = slides
    return {
        kind: tuple(hmac.new(key, word.encode(), "sha256").hexdigest()[:16] for word in listed)
        for kind, listed in words.items()
    }
