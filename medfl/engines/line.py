"""`Remote`: a transport over whatever carries bytes to sites in processes of their own, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from medfl.engines.codec import BadMessage, Bounds, pack, unpack_answer
from medfl.protocol import Failure, Reply, Request

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

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call."""
        with ThreadPoolExecutor(max(1, len(sites)), thread_name_prefix="medfl-line") as pool:
            waiting: list[tuple[str, int, Future[bytes] | None]] = []
            for name in sites:
                message = request(name)
                call = pool.submit(self.ask, name, pack(message, self.bounds)) if name in self.present else None
                waiting.append((name, message.round, call))
            for at, (name, round_, call) in enumerate(waiting):
                waiting[at] = (name, round_, None)  # so that an answer is let go once it is folded
                yield Failure(name, round_, "not connected") if call is None else self._answer(name, round_, call)

    def _answer(self, site: str, round_: int, call: Future[bytes]) -> Reply | Failure:
        try:
            return unpack_answer(call.result(), site, round_, self.bounds)
        except NoAnswer as error:
            return Failure(site, round_, str(error))
        except BadMessage as error:
            return Failure(site, round_, f"its answer was refused: {error}")
