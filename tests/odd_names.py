"""Names that somebody will give to a class, a site or a folder, on purpose or not."""

from __future__ import annotations

import random
import unicodedata

ODD_NAMES = (
    "normal [mucosa]",
    "HER2 [/0]",
    "[n/a]",
    "[bold red]x[/]",
    ":warning:",
    "$x$ \\frac $",
    "<b>&amp;</b><script>",
    "{0} {name} {{x}} %s %(a)s %",
    "a\nHeld-out sites: mean AUROC 1.000",
    "## Intended use\n| a | b |",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m\x85\x00",
    "\u202egnp.exe\u2066",
    "abc \u05d0\u05d1\u05d2 \u200f",
    "норма",
    "👩\u200d🔬 \U0001f9ec",
    "\udcff\ud800 \ufffe\uffff",
    "#010a5c",
    "a-- -->]]>",
    "=1+1",
    ".",
    "..",
    " ",
    "a/b",
    "a\\b",
    "_x_ `y` *z* ~w~",
    "x" * 300,
    "[link](http://example.org) http://example.org www.example.org",
)
PIECES = (
    "[",
    "]",
    "[/",
    "$",
    "%s",
    "{",
    "}",
    "|",
    "`",
    "\n",
    "\r",
    "\t",
    "\x1b[31m",
    "\x9b",
    "\u202e",
    "\u200f",
    "é",
    "漢",
    "🧪",
)


def odd_names(count: int, seed: int = 0) -> list[str]:
    """The names above, and random mixtures of what is in them, all different."""
    rng = random.Random(seed)
    names = list(ODD_NAMES)
    while len(names) < count:
        parts = [
            rng.choice((*PIECES, rng.choice(ODD_NAMES)[:12], chr(rng.randrange(0x3000))))
            for _ in range(rng.randint(1, 8))
        ]
        names = list(dict.fromkeys([*names, "".join(parts)]))
    return names[:count]


def hidden(text: str, lines: bool = True) -> set[str]:
    """What a text holds that a terminal would obey or nobody would see; line feeds too, unless it may have lines."""
    kinds = {"Cc", "Cs", "Zl", "Zp"}
    found = {c for c in text if unicodedata.category(c) in kinds or c in "\u200e\u200f\u061c\u200b\ufeff\ufffe\uffff"}
    found |= {
        c
        for c in text
        if unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    }
    return found - {"\n"} if lines else found
