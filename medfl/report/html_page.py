"""The page shell: one self-contained HTML file that asks the network for nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from medfl.metrics.palette import DARK, LIGHT, css_variables
from medfl.plain_text import visible


@dataclass(frozen=True)
class PageSection:
    """One section of a page.

    Attributes:
        key: its anchor, unique on the page.
        body: HTML, made by `blocks`.
        lead: a sentence or two on how to read it.
    """

    key: str
    title: str
    body: Markup
    lead: str = ""


@functools.cache
def templates() -> jinja2.Environment:
    """The templates of this package; everything that is no Markup is escaped, with all that is not seen in it made
    visible; an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("medfl.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(value, lines=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(
    title: str,
    sections: Sequence[PageSection],
    *,
    kicker: str = "medfl report",
    subtitle: str = "",
    facts: Sequence[str] = (),
    notice: str = "",
) -> str:
    """The page: a head, a table of contents, the sections.

    Args:
        kicker: the small line above the title.
        subtitle: a sentence below it.
        facts: short statements below that, one beside the other.
        notice: a warning above everything.
    """
    page = templates().get_template("page.html")
    colours = {"light": css_variables(LIGHT), "dark": css_variables(DARK)}
    words = {"title": title, "kicker": kicker, "subtitle": subtitle, "facts": facts, "notice": notice}
    return page.render(sections=sections, **words, **colours)
