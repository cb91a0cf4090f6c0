"""A page of a report, as a reader of its HTML sees it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A parsed page: sections by anchor with their tables and texts, tags, and the labels of charts and matrices."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.tables, self.texts, self.labels = [], {}, {"": ""}, []
        self.section, self.cell, self.raw = "", False, html
        self.feed(str(html))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "section":
            self.section = found["id"]
            self.tables[self.section], self.texts[self.section] = [], ""
        elif tag == "table" and self.section:
            self.tables[self.section].append([])
        elif tag == "tr" and self.section:
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th") and self.section:
            self.tables[self.section][-1][-1].append("")
        if tag == "svg" or found.get("class") == "scroll matrix":
            self.labels.append(found["aria-label"])
        self.cell = self.cell or tag in ("td", "th")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = False
        elif tag == "section":
            self.section = ""

    def handle_data(self, data):
        self.texts[self.section] += data
        if self.cell and self.section:
            self.tables[self.section][-1][-1][-1] += data

    def rows(self, section, table=0):
        """{first cell: the others} of a table."""
        return {row[0]: row[1:] for row in self.tables[section][table][1:]}

    def values(self, *names):
        """Values of all attributes of these names."""
        return [found[name] for _, found in self.tags for name in names if name in found]
