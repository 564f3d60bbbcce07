"""One HTML file with words, tables and drawings that needs nothing else, to be opened anywhere.

The page's own policy forbids every outside resource, and the same content gives the same bytes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError, MissingExtraError

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 60rem }
body { margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f6f6f6 } code { background: #f2f2f2; padding: .1rem .3rem }
"""


class Page:
    """A page in the making; text is escaped. Raises `MissingExtraError` where plotly is not installed."""

    def __init__(self, title: str) -> None:
        try:
            import plotly.offline
        except ImportError:
            raise MissingExtraError("reports", "report") from None
        self._script = plotly.offline.get_plotlyjs()
        self._title = html.escape(title)
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def prose(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Add what is to be typed."""
        self._parts.append(f"<p><code>{html.escape(text)}</code></p>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers are best given as text, in the form that they are to be read in."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        self._parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def figure(self, figure: Any) -> None:
        """Add a plotly figure."""
        name = f"figure-{len(self._parts)}"  # or plotly would draw one at random
        self._parts.append(figure.to_html(full_html=False, include_plotlyjs=False, div_id=name))

    def write(self, path: str | Path) -> None:
        """Write the page; raise `InputError` where that is not possible."""
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            f"<title>{self._title}</title>"
            f"<style>{_STYLE}</style><script>{self._script}</script></head>"
            f"<body><h1>{self._title}</h1>{''.join(self._parts)}</body></html>\n"
        )
        try:
            Path(path).write_text(page, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None
