"""A site's kit vouches for the key behind which it masks: signed by the kit's key, checked by the kits' authority."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medfl.engines.remote.kit_signature import read_certificate, vouch, vouched
from medfl.methods.core.masked_sums import KEY


class KitKeys:
    """The `KeyIdentity` of a kit.

    Args:
        startup: the kit's folder with its key, its certificate and the authority's.
    """

    def __init__(self, startup: Path) -> None:
        self.startup = startup

    def sign(self, site: str, key: str) -> Mapping[str, str]:
        """The kit's certificate and its signature."""
        return vouch(self.startup, _words(site, key))

    def check(self, site: str, announced: Mapping[str, str]) -> str | None:
        """Whether a certificate of this kit's authority, in that site's name, has signed the key."""
        root = read_certificate(self.startup / "rootCA.pem")
        if KEY not in announced or vouched(announced, root, site, _words(site, announced[KEY])) is None:
            return f"the key that is called that of {site} is not signed by its kit"
        return None


def kit_identity(folder: Path) -> KitKeys | None:
    """Who the party of a folder is; None where its folder lies in no kit."""
    startup = folder.parent / "startup"
    return KitKeys(startup) if (startup / "client.key").is_file() else None


def _words(site: str, key: str) -> bytes:
    return f"medfl masked sum: the key of {site} is {key}".encode()
