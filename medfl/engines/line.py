"""`Remote`: a transport over whatever carries bytes to sites in processes of their own, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from medfl.engines.codec import BadMessage, Bounds, pack, unpack_answer
from medfl.protocol import Failure, Reply, Request

ABSENT = "not connected"
Ask = Callable[[str, bytes], bytes]


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
    """

    def __init__(self, present: Collection[str], ask: Ask, bounds: Bounds) -> None:
        self.present = frozenset(present)
        self.ask = ask
        self.bounds = bounds
        self._pool = ThreadPoolExecutor(max(1, len(self.present)), thread_name_prefix="medfl-line")

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call."""
        waiting: list[tuple[str, int, Future[bytes] | None]] = []
        for name in sites:
            message = request(name)
            call = self._pool.submit(self.ask, name, pack(message, self.bounds)) if name in self.present else None
            waiting.append((name, message.round, call))
        for at, (name, round_, call) in enumerate(waiting):
            waiting[at] = (name, round_, None)  # so that an answer is let go once it is folded
            yield Failure(name, round_, ABSENT) if call is None else self._answer(name, round_, call.result)

    def post(self, site: str, request: Request) -> Future[Reply | Failure]:
        """See Posting.post."""
        if site not in self.present:
            absent: Future[Reply | Failure] = Future()
            absent.set_result(Failure(site, request.round, ABSENT))
            return absent
        message = pack(request, self.bounds)
        return self._pool.submit(self._answer, site, request.round, lambda: self.ask(site, message))

    def _answer(self, site: str, round_: int, call: Callable[[], bytes]) -> Reply | Failure:
        try:
            return unpack_answer(call(), site, round_, self.bounds)
        except NoAnswer as error:
            return Failure(site, round_, str(error))
        except BadMessage as error:
            return Failure(site, round_, f"its answer was refused: {error}")
