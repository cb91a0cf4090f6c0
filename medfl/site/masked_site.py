"""A site whose updates leave it behind masks only, so that whoever adds them up sees their sum."""

from __future__ import annotations

from typing import Any

from medfl.messages import Reply, Request
from medfl.site.masking import Masking
from medfl.site.site import Site


class MaskedSite(Site):
    """A `Site` that answers to `KeyRequest` and `UnmaskRequest`, and sends no update as it is.

    Attributes:
        masking: its keys and seeds.
    """

    def __init__(self, name: str, *arguments: Any, **keywords: Any) -> None:
        super().__init__(name, *arguments, **keywords)
        self.masking = Masking(name)

    def handle(self, request: Request) -> Reply:
        """See Site.handle. Raises MaskRefused besides: what is asked would tell more than a sum."""
        return self.masking.answer(request, super().handle, self.shared.chain.weighs_equally)
