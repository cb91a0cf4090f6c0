"""When two names are one name in two spellings.

Names of patients, classes and sites come through spreadsheets, file systems and hands. Two Unicode forms of one text
are one name. Two names that differ in nothing but case, blanks, characters that show nothing, leading zeros or a final
`.0` are most likely one name too; who uses them has to say.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import AfterValidator

from medfl.errors import MedflError

# They show nothing and are of other categories than the format and control characters.
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
UNDECODABLE = re.compile("[\ud800-\udfff]")  # how Python holds bytes that are no text
LEADING_ZEROS = re.compile(r"(?<!\d)(?<!\d[.,])0+(?=\d)")
FINAL_ZERO = re.compile(r"(?<![\d.,])(\d+)[.,]0+$")  # what a spreadsheet makes of a whole number


def one_form(name: str) -> str:
    """The name in Unicode's composed form (NFC), whichever system wrote it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


SpeltName = Annotated[str, AfterValidator(one_form)]
"""A name in a file, in one Unicode form."""


def is_blank(text: str) -> bool:
    """Whether a text shows nothing."""
    return not text or not plain(text).strip()


def check_decodable(names: Iterable[str], where: str) -> None:
    """Raise MedflError, begun by `where`, for the first name that is no text, as file systems allow."""
    for name in names:
        if not name.isascii() and UNDECODABLE.search(name):
            raise MedflError(f'{where}: the name "{show(name)}" is not written in UTF-8; rename it')


def show(name: str) -> str:
    """The name with whatever does not show as itself written as an escape, so that two spellings look like two."""
    return "".join(
        letter if letter == " " or not _hidden(letter) else letter.encode("unicode_escape").decode() for letter in name
    )


def spelt_alike(names: Iterable[str], exact: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Pairs of different names that are alike but for their spelling.

    Args:
        names: in one Unicode form each.
        exact: names that stand for what they are: two of them are two, however alike.
    """
    apart = set(exact)
    holders: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        forms = spellings(name)
        alike = (other for form in forms for other in holders.get(form, ()) if not {name, other} <= apart)
        if (other := next(alike, None)) is not None:
            yield other, name
        for form in forms:
            holders.setdefault(form, []).append(name)


def spellings(name: str) -> frozenset[str]:
    """What is left of a name without its spelling; two names are alike where they have one of these in common.

    There are two, since a blank between digits may part two numbers or stand in one.
    """
    text = plain(name)
    if " " not in text:
        return frozenset((_numbers(text),))
    return frozenset((_numbers("".join(text.split())), "".join(_numbers(text.strip()).split())))


def common_form(text: str) -> str:
    """One readable text for all spellings of a word: small letters, single blanks, whole numbers without zeros."""
    return unicodedata.normalize("NFC", _numbers(" ".join(plain(text).split())))


def letters(name: str) -> str:
    """The name of a column without case, blanks and marks."""
    return "".join(letter for letter in plain(name) if letter.isalnum())


def plain(text: str) -> str:
    """In small letters, without what does not show, every blank a plain one."""
    if text.isascii() and text.isprintable():
        return text.lower()
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    letters = (" " if letter.isspace() else letter for letter in UNSEEN.sub("", text))
    seen = "".join(letter for letter in letters if unicodedata.category(letter) not in ("Cf", "Cc"))
    return unicodedata.normalize("NFKD", seen)  # a mark may have stood behind something invisible


def _numbers(text: str) -> str:
    """Numbers without leading zeros, a whole one without its final zeros."""
    return LEADING_ZEROS.sub("", FINAL_ZERO.sub(r"\1", text))


def _hidden(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter)[0] == "C" or UNSEEN.match(letter) is not None
