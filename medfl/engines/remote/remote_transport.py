"""`Remote`: a transport over whatever carries bytes to sites in processes of their own, all of them at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import TypeVar

from medfl.engines.remote.codec import BadMessage, Bounds, pack, unpack_answer
from medfl.engines.remote.pieces import BadPiece, Message, exchange
from medfl.messages import Failure, Reply, Request

REFUSED = "its answer was refused"
VECTORS = ("weights", "buffers", "extra")
Answer = TypeVar("Answer")
Ask = Callable[[str, bytes], bytes]
Note = Callable[[str, Request, int, int, Reply | Failure], None]


class NoAnswer(Exception):
    """A call that brought nothing back; the message is one sentence."""


class Stopped(Exception):
    """The engine has ended the run; no call will be answered any more."""


class Remote:
    """Sites that are asked in parallel; answers are yielded in the order of the sites asked.

    Args:
        present: the sites that are connected.
        ask: carries bytes to a site and its answer back. Raises NoAnswer, or Stopped, which ends the round.
        bounds: what a message of this model can hold.
        note: is told of each answer: the site, the request, bytes out, bytes in, and the answer.
    """

    def __init__(self, present: Collection[str], ask: Ask, bounds: Bounds, note: Note | None = None) -> None:
        self.present = frozenset(present)
        self.ask = ask
        self.bounds = bounds
        self.note = note
        self._pool = ThreadPoolExecutor(max(1, len(self.present)), thread_name_prefix="medfl-line")
        self._opening = Lock()  # one answer at a time is held more than once

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call. An answer is unpacked when it is its turn, since long ones wait on the disk."""
        waiting: deque[tuple[str, Request, int, Future[Message | Failure]]] = deque()
        before: tuple[Request, Message] | None = None
        for name in sites:
            message = request(name)
            if before is None or not _alike(message, before[0]):  # most sites are sent the same: packed and held once
                before = message, pack(message, self.bounds)
            fetched = self._with(name, message, partial(self._fetched, name, message, before[1]))
            waiting.append((name, message, len(before[1]), fetched))
        before = None
        while waiting:
            name, message, sent, fetched = waiting.popleft()  # so that an answer is let go once it is folded
            yield self._opened(name, message, sent, fetched.result())

    def post(self, site: str, request: Request) -> Future[Reply | Failure]:
        """See Posting.post."""
        message = pack(request, self.bounds)
        return self._with(
            site, request, lambda: self._opened(site, request, len(message), self._fetched(site, request, message))
        )

    def _with(self, site: str, request: Request, work: Callable[[], Answer]) -> Future[Answer | Failure]:
        """Work with a site in a thread; a failure where it is not connected."""
        if site in self.present:
            return self._pool.submit(work)
        absent: Future[Answer | Failure] = Future()
        absent.set_result(Failure(site, request.round, "not connected"))
        return absent

    def _fetched(self, site: str, request: Request, message: Message) -> Message | Failure:
        """The bytes that a site answers."""
        try:
            return exchange(partial(self.ask, site), message, self.bounds.message)
        except NoAnswer as error:
            return Failure(site, request.round, str(error))
        except BadPiece as error:
            return Failure(site, request.round, f"{REFUSED}: {error}")

    def _opened(self, site: str, request: Request, sent: int, data: Message | Failure) -> Reply | Failure:
        """What those bytes say. One answer at a time is held twice."""
        answer: Reply | Failure
        if isinstance(data, Failure):
            answer, received = data, 0
        else:
            received = len(data)
            try:
                with self._opening:
                    answer = unpack_answer(data, site, request.round, self.bounds)
            except BadMessage as error:
                answer = Failure(site, request.round, f"{REFUSED}: {error}")
        if self.note is not None and site in self.present:
            self.note(site, request, sent, received, answer)
        return answer


def _alike(one: Request, two: Request) -> bool:
    """Whether two requests are the same message, their vectors the same tensors."""
    mine, other = one.vectors(), two.vectors()
    if type(one) is not type(two) or mine.keys() != other.keys() or any(mine[k] is not other[k] for k in mine):
        return False
    facts = [{k: v for k, v in vars(each).items() if k not in VECTORS} for each in (one, two)]
    return facts[0] == facts[1]
