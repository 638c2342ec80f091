"""A page taken apart: its elements, its words, its numbers."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """`elements` are (tag, attributes, text inside) in the order they open; `text` is all that a reader sees."""

    _VOID = ("meta", "img", "br", "wbr")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[int] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}, []))
        if tag not in self._VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}, []))

    def handle_endtag(self, tag: str) -> None:
        opened = self.elements[self._open.pop()][0]
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.elements[place][2].append(data)

    @property
    def is_whole(self) -> bool:
        return not self._open

    @property
    def text(self) -> str:
        return self.one("body")

    def one(self, tag: str, **attributes: str) -> str:
        """The words in the first such element."""
        return self.all(tag, **attributes)[0]

    def all(self, tag: str, **attributes: str) -> list[str]:
        """The words in each such element; a class may be one of several."""
        return [
            " ".join("".join(text).split())
            for name, values, text in self.elements
            if name == tag
            and all(wanted in values.get(key.strip("_"), "").split() for key, wanted in attributes.items())
        ]

    def tags(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def section(self, identity: str) -> str:
        return self.one("section", id=identity)

    def bar(self) -> list[dict[str, str]]:
        """The rectangles of the first bracket on the page, but for the hatching over the unresolved part."""
        start = next(i for i, (tag, a, _) in enumerate(self.elements) if tag == "svg" and a.get("class") == "bracket")
        end = next(i for i, (tag, _, _) in enumerate(self.elements) if i > start and tag in ("table", "figcaption"))
        return [a for tag, a, _ in self.elements[start:end] if tag == "rect" and "class" in a]


def percentages(text: str) -> list[str]:
    return re.findall(r"[\d.]+%", text)
