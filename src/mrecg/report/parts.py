"""Parts that a page is made of, as values; what is in them is text, not markup, but for charts."""

from dataclasses import dataclass

__all__ = ["Chapter", "Chart", "Code", "Figure", "Section", "Table"]


@dataclass(frozen=True)
class Table:
    """A table; its first column is text, the others are numbers or short words.

    Attributes:
        caption: what it shows.
        columns: their heads.
        rows: their cells.
        is_open: it is part of the answer, and not there to look things up.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_open: bool = False


@dataclass(frozen=True)
class Chart:
    """A picture.

    Attributes:
        svg: an element that can stand in a page; its colors are variables of the page's style.
        caption: what it shows.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Figure:
    """A number that is worth a place at the top.

    Attributes:
        name: of the quantity.
        value: with its unit.
        detail: what to know besides.
    """

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Code:
    """Text that is meant to be copied."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """A question and its answer: in words first, then as pictures, then as tables.

    Attributes:
        question: the heading.
        answer: one sentence, or a few.
        figures: numbers beneath it.
        charts, tables: what the answer rests on.
        notes: further findings, a line each.
        code: what can be copied.
    """

    question: str
    answer: str
    figures: tuple[Figure, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    code: tuple[Code, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """The sections about one run, or about several together.

    Attributes:
        title: of the chapter.
        subtitle: what was done, in a line.
        sections: from the most important to the least.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
