"""Text in columns for a terminal. It knows nothing of what the columns hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], align: str, *, before: str = "", longest: int = 44) -> list[str]:
    """Rows as lines whose columns begin, or end, under one another.

    Args:
        rows: Cells, as many a row as `align` has letters.
        align: One letter a column, ``l`` or ``r``.
        before: Stands before each line.
        longest: Places that a cell may take; a longer one is cut, with … at its end.
    """
    cut = [[shortened(" ".join(cell.split()), longest) for cell in row] for row in rows]
    widths = [max((width(row[i]) for row in cut), default=0) for i in range(len(align))]
    lines = []
    for row in cut:
        cells = [
            " " * (most - width(cell)) + cell if side == "r" else cell + " " * (most - width(cell))
            for cell, most, side in zip(row, widths, align, strict=True)
        ]
        lines.append((before + "  ".join(cells)).rstrip())
    return lines


def width(text: str) -> int:
    """Places of a terminal that a text takes: two a Chinese character, none an accent."""
    return sum(0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def shortened(text: str, longest: int) -> str:
    """The text, or as much of its beginning as leaves room for … within `longest` places."""
    if width(text) <= longest:
        return text
    while width(text) > longest - 1:
        text = text[:-1]
    return f"{text}…"
