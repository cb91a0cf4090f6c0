"""Names in other spellings are joined or seen; different names are not."""

import random
import unicodedata

import pytest

from medfl.config.spelling import is_blank, one_form, show, spellings, spelt_alike

LETTERS = "abcdeghkmnrtuzABDKMPTZäöüéñçøåŁжЖβΣ한"
BLANKS = (" ", "\xa0", "\t", "\u2009", "\u3000")
UNSEEN = ("\u200b", "\u200d", "\xad", "\ufeff", "\u2060", "\ufe0f", "\x00", "\u034f")


def alike(one: str, other: str) -> bool:
    return one_form(one) == one_form(other) or bool(list(spelt_alike([one_form(one), one_form(other)])))


def random_name(rng: random.Random) -> tuple[str, ...]:
    """A name as words and numbers that take turns, joined by a mark."""
    parts = []
    for _ in range(rng.randint(1, 2)):
        parts.append("".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 4))))
        parts.append(str(rng.randint(0, 300)))
    return tuple(parts[rng.randint(0, 1) :])


def other_spelling(rng: random.Random, parts: tuple[str, ...]) -> str:
    """The same name as a file system, a spreadsheet or a hand may spell it."""
    parts = tuple("0" * rng.randint(0, 3) + part if part.isdigit() else part for part in parts)
    name = "-".join(parts)
    if parts[-1].isdigit() and rng.random() < 0.3:
        name += rng.choice((".0", ".00", ",0"))
    name = unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKC", "NFKD")), name)
    name = rng.choice((str, str.upper, str.lower, str.title))(name)
    for _ in range(rng.randint(0, 3)):
        at = rng.randint(0, len(name))
        name = name[:at] + rng.choice(BLANKS + UNSEEN) + name[at:]
    return name


@pytest.mark.parametrize("seed", range(4))
def test_any_spelling_of_a_name_is_joined_or_seen_and_another_name_never(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        parts, others = random_name(rng), random_name(rng)
        name, spelling = "-".join(parts), other_spelling(rng, parts)
        assert alike(name, spelling), (name, ascii(spelling))
        different = [part.casefold() for part in parts] != [part.casefold() for part in others]
        assert alike(name, "-".join(others)) != different, (name, others)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("PAT1", "Pat1", True),
        ("00001", "1", True),
        ("1", "1.0", True),
        ("007.0", "7", True),
        ("1 01", "101", True),
        ("1 01", "1 1", True),
        ("Strasse", "STRAßE", True),
        ("e\u200b\u0301", "é", True),
        ("101", "11", False),
        ("1.05", "1.5", False),  # decimals
        ("1.2.840.0", "1.2.840", False),  # identifiers with points
        ("P10", "P1", False),
        ("-1", "1", False),
        ("A", "А", False),  # a Cyrillic letter is another letter
    ],
)
def test_what_spelling_is(one: str, other: str, same: bool) -> None:
    assert alike(one, other) == same
    assert alike(other, one) == same


def test_names_that_are_said_to_be_two() -> None:
    names = ["Pat1", "PAT1", "pat1", "Pat2"]
    assert len(list(spelt_alike(names))) == 2
    assert list(spelt_alike(names[:2], exact=names[:2])) == []
    assert list(spelt_alike(names, exact=names[:2])) == [("Pat1", "pat1")]


def test_what_does_not_show_is_shown() -> None:
    assert show("Pat\u200b1\xa0é") == "Pat\\u200b1\\xa0é"
    assert show("a\nb\udcff") == "a\\nb\\udcff"
    assert is_blank("\ufeff \u200b")
    assert not is_blank("0")
    assert spellings("0") == spellings("000") != spellings("")
