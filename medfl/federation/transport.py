"""How the federation reaches its sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from medfl.messages import Failure, Reply, Request


class Transport(Protocol):
    """Delivers requests and yields what comes back, one answer a site, in the order of `sites`."""

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """Ask each site. `request(site)` is made when that site is about to be asked; a site that raises or does not
        answer is a Failure, never silence. Answers are yielded as they can be folded, so the caller holds one."""
        ...


@runtime_checkable
class AsyncTransport(Transport, Protocol):
    """A transport whose sites work side by side, so that one can be asked without waiting for it."""

    def post(self, site: str, request: Request) -> Future[Reply | Failure]:
        """Ask one site, which must not have been asked something it has not answered yet."""
        ...


class Handler(Protocol):
    """Whatever answers requests: a site, as far as the federation knows it."""

    def handle(self, request: Request) -> Reply:
        """The answer to a message."""
        ...


class InProcess:
    """Sites of this process, one after another."""

    def __init__(self, sites: Mapping[str, Handler]) -> None:
        self.sites = sites

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call."""
        for name in sites:
            message = request(name)
            try:
                answer: Reply | Failure = self.sites[name].handle(message)
            except Exception as error:
                answer = Failure(name, message.round, failure_reason(error))
            yield answer


def failure_reason(error: Exception) -> str:
    """One sentence. An error that is not ours might quote a path, so only its kind is told."""
    if type(error).__module__.startswith("medfl") or type(error) is ValueError:
        return str(error)
    return f"{type(error).__name__} at the site"
