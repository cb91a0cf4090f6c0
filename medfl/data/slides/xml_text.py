"""XML as other programs write it, without what makes a small file a large one."""

from __future__ import annotations

from xml.etree import ElementTree

from medfl.data.rgb import Unreadable


def parse_xml(content: bytes) -> ElementTree.Element:
    """The root of an XML text. Raises Unreadable for what is none, or declares a document type, which may define
    entities that grow without end."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise Unreadable("XML with a document type (<!DOCTYPE), which is not read; remove it")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable(f"no XML: {error}") from None
