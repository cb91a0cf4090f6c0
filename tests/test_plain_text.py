"""Text of others: nothing in it steers, hides or passes for markup, and what is plain stays as it is."""

import random
import re

import pytest

from medfl.errors import GateFailed, MedflError
from medfl.messages import Failure
from medfl.plain_text import markdown, shortened, visible
from tests.odd_names import hidden, odd_names


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lung_aca, 5 % [n/a]", "lung_aca, 5 % [n/a]"),
        ("норма 漢字 👩\u200d🔬 نمی\u200cخواهم", "норма 漢字 👩\u200d🔬 نمی\u200cخواهم"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31m \x9b \x00 \u202e \udcff", "\\x1b[31m \\x9b \\x00 \\u202e \\udcff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_is_not_seen_becomes_visible(text, shown):
    assert visible(text) == shown


def test_any_text_is_made_visible_once_and_for_all():
    letters = [chr(code) for code in range(0x3100)] + [chr(code) for code in range(0xD7F0, 0x10000)]
    assert not hidden(visible("".join(letters)), lines=False)
    for name in odd_names(300):
        assert visible(visible(name)) == visible(name)
        assert not hidden(visible(name), lines=False)
        assert visible(name, lines=True).count("\n") == name.count("\n")
        visible(name).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lung_aca, 5 %", "lung_aca, 5 %"),
        ("held-out site 3.", "held-out site 3."),
        ("a|b `c` *d* _e_", "a\\|b \\`c\\` \\*d\\* \\_e\\_"),
        ("## Intended use", "\\## Intended use"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("a\n# b", "a\\\\n# b"),
        ("<b>&$x$", "&lt;b&gt;&amp;&#36;x&#36;"),
        ("[x](http://y) www.z", "\\[x\\](http\\://y) www\\.z"),
    ],
)
def test_markdown_is_text(text, shown):
    assert markdown(text) == shown


def test_no_name_opens_a_cell_a_heading_or_a_tag():
    for name in odd_names(300, seed=1):
        shown = markdown(name)
        assert not hidden(shown, lines=False)
        bare = re.sub(r"\\.", "", shown)  # what is left once every escaped character is gone
        assert not set(bare) & set("|`*[]<>~$\\"), (name, shown)
        assert not shown.startswith(("#", "- ", "+", "="))


def test_a_shortened_name_keeps_both_ends():
    assert shortened("scaffold-with-ecgr-lr-0.003", 20) == "scaffold-…r-lr-0.003"
    assert shortened("scaffold-ecgr-0.003", 20) == "scaffold-ecgr-0.003"
    rng = random.Random(2)
    for name in odd_names(100, seed=2):
        limit = rng.randint(4, 40)
        assert len(shortened(name, limit)) <= limit


def test_errors_and_failures_are_one_line():
    for kind in (MedflError, GateFailed):
        assert str(kind("site \x1b[31mx\nmedfl: all is well")) == "site \\x1b[31mx\\nmedfl: all is well"
    assert Failure("north", 1, "lost\nround 2: \u202efine").reason == "lost\\nround 2: \\u202efine"
