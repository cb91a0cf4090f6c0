"""Text that others wrote, such as names, file names and error messages, shown so that it cannot pass for anything else.

A class may be called `HER2 [/0]`, `$x$` or `<b>`, a file may hold an escape code or a line break in its name. Whatever
reaches a terminal, a log, a record or a page goes through `visible`; what reaches Markdown goes through `markdown`.
"""

from __future__ import annotations

import re

# C0, DEL and C1 controls; what is not seen (soft hyphen, zero-width space, word joiner, byte-order mark); what turns
# the direction of text; line and paragraph separators; halves of pairs, which stand for undecodable bytes of file
# names; what XML forbids; tags. Zero-width joiners stay: Persian, Indic scripts and emoji are written with them.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
_HIDDEN_IN_LINES = re.compile(_HIDDEN.pattern.replace("[\x00-\x1f", "[\x00-\x09\x0b-\x1f"))
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MARKDOWN = re.compile(
    r"[\\`*\[\]|~]"  # code, emphasis, links, cells
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; within a word an underscore is none
    r"|(?<=[a-z]):(?=//)|(?<=www)\."  # bare addresses
    r"|^(?:[#+=-]|\d+[.)])",  # headings, rules and lists
    re.IGNORECASE,
)
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})


def visible(text: object, lines: bool = False) -> str:
    r"""Text with everything in it that is not seen, or that steers a terminal, as a backslash escape: `\x1b`, `\u202e`.

    Applied twice it changes nothing more.

    Args:
        lines: whether line feeds stay, for text that is meant to have several lines.
    """
    return (_HIDDEN_IN_LINES if lines else _HIDDEN).sub(_escape, str(text))


def markdown(text: object) -> str:
    """Text as it is, on one line of a Markdown page or in a cell of its tables: no heading, link, formula or HTML."""
    return _MARKDOWN.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", visible(text).strip()).translate(_ENTITIES)


def shortened(text: object, limit: int) -> str:
    """A name that fits on one line: at most `limit` characters, an ellipsis where some were left out. Both its ends are
    kept, since names often differ in the last of their letters."""
    shown = visible(text)
    if len(shown) <= limit:
        return shown
    tail = limit // 2
    return f"{shown[: limit - tail - 1]}…{shown[-tail:]}"


def printable(text: str, limit: int) -> str:
    """The first `limit` letters of what another party said, a question mark for each that does not print: unlike
    `visible` never longer, as a message of bounded size needs."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])


def _escape(match: re.Match[str]) -> str:
    letter = match[0]
    code = ord(letter)
    if letter in _NAMED:
        return _NAMED[letter]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
