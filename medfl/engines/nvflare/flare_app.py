"""The two ends as NVIDIA FLARE's Collab runtime builds them: an object in the server's job process, one in each site's.

A job names these classes and brings no code: a party runs what is installed there.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from threading import Lock
from typing import Any

from nvflare.collab import collab
from nvflare.collab.api.exceptions import CollabCallError, RunAborted

from medfl.engines.remote.party_files import PARTY

GRACE = 10.0  # seconds
HOME = "MEDFL_PARTIES"  # in the simulator, where all parties' folders lie in one; otherwise each is in its kit


def party_folder(name: str, workspace: str) -> Path:
    """The folder of the party whose process this is."""
    home = os.environ.get(HOME)
    return Path(home) / name if home else Path(workspace) / PARTY


class StreamGarbage:
    """Frees what FLARE's streams leave behind: cycles of references that hold the bytes they have carried.

    Python looks for cycles once there are so many objects, whatever their size, and a message of a gigabyte is a few
    thousand of them. What there is at the start, PyTorch and all, is left out, so that a look takes milliseconds.
    """

    EVERY = 64 * 2**20  # bytes

    def __init__(self) -> None:
        self._bytes = 0
        self._lock = Lock()
        gc.collect()
        gc.freeze()

    def add(self, carried: int) -> None:
        """So many bytes were carried; after enough of them the cycles are freed."""
        with self._lock:
            self._bytes += carried
            if self._bytes < self.EVERY:
                return
            self._bytes = 0
        gc.collect()


class ServerApp:
    """The server of a run.

    Args:
        run: the run's identity.
        timeout: seconds that a site has for one message.
        patience: seconds that a site has for its first words, in which it may render its patches.
    """

    def __init__(self, run: str, timeout: float, patience: float) -> None:
        self.run = run
        self.timeout = timeout
        self.patience = patience

    @collab.main  # type: ignore[untyped-decorator]
    def main(self) -> None:
        """Carry out the run."""
        from medfl.engines.remote.remote_transport import NoAnswer, Stopped
        from medfl.engines.remote.server_endpoint import serve

        proxies, garbage = {proxy.name: proxy for proxy in collab.clients}, StreamGarbage()

        def reach(site: str, timeout: float, method: str, **arguments: Any) -> bytes:
            proxy, began = proxies[site], time.monotonic()
            try:
                answer: bytes = getattr(proxy(timeout=timeout), method)(**arguments)
            except RunAborted:
                raise Stopped from None
            except CollabCallError:
                # A call that ends early is the first sign that a process is gone, upon which FLARE ends the whole job:
                # no round may be written without that site before it has.
                early = time.monotonic() - began < 0.95 * timeout
                until = time.monotonic() + (GRACE if early else 0.0)
                while not proxy.backend.abort_signal.triggered:
                    if time.monotonic() >= until:
                        why = "the call did not get through" if early else f"no answer within {timeout:g} s"
                        raise NoAnswer(why) from None
                    time.sleep(0.1)
                raise Stopped from None
            return answer

        def handshake(site: str, message: bytes) -> bytes:
            return reach(site, self.patience, "handshake", server=message)

        def ask(site: str, message: bytes) -> bytes:
            answer = reach(site, self.timeout, "handle", run=self.run, message=message)
            garbage.add(len(message) + len(answer))
            return answer

        serve(party_folder("server", collab.workspace.get_root_dir()), sorted(proxies), handshake, ask)


class SiteApp:
    """One site. It is built when it is first spoken to, so that the runtime's own short timeouts do not matter."""

    def __init__(self) -> None:
        self._endpoint: Any = None
        self._garbage: StreamGarbage | None = None

    @collab.publish  # type: ignore[untyped-decorator]
    def handshake(self, server: bytes) -> bytes:
        """See SiteEndpoint.handshake."""
        answer: bytes = self._built().handshake(server)
        self._garbage = self._garbage or StreamGarbage()  # once what the site holds is there
        return answer

    @collab.publish  # type: ignore[untyped-decorator]
    def handle(self, run: str, message: bytes) -> bytes:
        """See SiteEndpoint.handle."""
        answer: bytes = self._built().handle(run, message)
        if self._garbage is not None:
            self._garbage.add(len(message) + len(answer))
        return answer

    def _built(self) -> Any:
        if self._endpoint is None:
            from medfl.engines.remote.site_endpoint import SiteEndpoint

            folder = party_folder(collab.site_name, collab.workspace.get_root_dir())
            self._endpoint = SiteEndpoint(folder, collab.site_name)
        return self._endpoint
