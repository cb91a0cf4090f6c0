"""What a site says of its data for the dossier of a run: words for people, none of which a figure depends on."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from medfl.config.fields import ConfigSection

# The beginning of an absolute or relative path, a drive, a share, a file address, or a password in an address.
_PLACE = re.compile(
    r"(?:^|[\s\"'(\[=,;:])(?:~[\w.-]*/|\.{1,2}[/\\]|/[\w.~-]|[a-z]:[\\/]|\\\\\w|file:)|//[^/\s]*@", re.IGNORECASE
)


def _public(text: str | None) -> str | None:
    """One line of text; nothing for a blank one. Raises ValueError where it names a place on a machine."""
    line = " ".join((text or "").split())
    if place := _PLACE.search(line):
        near = line[place.start() :].split()[0]
        raise ValueError(
            f"this goes into a dossier that leaves the machine, and {near!r} looks like a path or a password; write it "
            "without"
        )
    return line or None


PublicText = Annotated[str | None, AfterValidator(_public)]
"""Free text of a document that is handed on: one line, without paths; null and blank are no answer."""


class SiteAbout(ConfigSection):
    """Who answers for a site's data and how they came about; each description is a question that the dossier asks."""

    owner: PublicText = Field(None, description="Institution that answers for the data.")
    contact: PublicText = Field(None, description="Office to ask about the data: a role, no person's name.")
    setting: PublicText = Field(None, description="Kind of institution or department, and where it is.")
    period: PublicText = Field(None, description="From when to when patients or cases were taken in.")
    eligibility: PublicText = Field(None, description="Which patients and slides were taken in, and which were not.")
    scanner: PublicText = Field(None, description="Scanner or camera: maker, model, objective, compression.")
    staining: PublicText = Field(None, description="Stain and protocol of the laboratory, fixation, thickness.")
    annotation: PublicText = Field(None, description="How labels were made: protocol, tool, test data included.")
    annotators: PublicText = Field(None, description="Who labelled: how many, their qualification; no names.")
    consent: PublicText = Field(None, description="Basis on which data may be used: consent, waiver, law.")
    ethics: PublicText = Field(None, description="Ethics committee and number of its approval or waiver.")
    licence: PublicText = Field(None, description="Terms under which the data may be used by others.")
