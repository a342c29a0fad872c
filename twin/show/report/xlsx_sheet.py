"""A worksheet that is filled from top to bottom: texts, figures with their formats, formulas, tables, print setup."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openpyxl.cell import Cell as Square
    from openpyxl.styles import Font
    from openpyxl.worksheet.worksheet import Worksheet

BLUE, FILL, HEAD, PALE, RED = "0000FF", "FFFBE6", "DCE6F1", "F2F2F2", "F8CBAD"
"""What may be edited is blue on pale yellow: the convention of financial models, and the fill survives grey print."""
LINE = 15.0
"""Points of a line of text."""
OFF = 0.005
"""A computed figure that is further than this share from the plan's is marked."""

USD, USD_HOUR, SHARE, COUNT, NUMBER = '"$"#,##0', '"$"#,##0.00', "0.0%", "#,##0", "#,##0.0###"


@dataclass(frozen=True)
class Formula:
    """``text`` without its equals sign. Texts of a run are never formulas, whatever they begin with."""

    text: str


Value = str | float | int | bool | None | Formula


def column(index: int) -> str:
    """1 → A, 27 → AA."""
    from openpyxl.utils import get_column_letter

    return str(get_column_letter(index))


@dataclass
class Sheet:
    """``at`` is the next free row. Addresses (:meth:`cell`, :meth:`span`) are absolute and name their sheet."""

    page: Worksheet
    at: int = 1
    checks: list[str] = field(default_factory=list)

    def cell(self, row: int, col: int) -> str:
        return f"'{self.page.title}'!${column(col)}${row}"

    def span(self, row: int, col: int, to_row: int, to_col: int | None = None) -> str:
        return f"{self.cell(row, col)}:${column(to_col or col)}${to_row}"

    def put(
        self, row: int, col: int, value: Value, fmt: str | None = None, *, bold: bool = False, right: bool = False
    ) -> Square:
        """One cell; ``right``: a text that stands among figures."""
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
        from openpyxl.styles import Alignment

        square = self.page.cell(row, col)
        if isinstance(value, Formula):
            square.value = f"={value.text}"
        elif isinstance(value, str):
            square.value = ILLEGAL_CHARACTERS_RE.sub("", value)
            square.data_type = "s"
        else:
            square.value = value
        text = isinstance(value, str)
        square.alignment = Alignment("right" if right else "left" if text else None, vertical="top", wrap_text=text)
        square.font = _font(bold=bold)
        if fmt is not None:
            square.number_format = fmt
        return square

    def title(self, text: str) -> None:
        self._flat(text, 14)

    def heading(self, text: str) -> None:
        self.at += 1
        self._flat(text, 12)

    def _flat(self, text: str, size: int) -> None:
        """A line that runs over the cells beside it."""
        from openpyxl.styles import Alignment

        square = self.put(self.at, 1, text)
        square.font, square.alignment = _font(bold=True, size=size), Alignment(vertical="top")
        self.page.row_dimensions[self.at].height = 1.6 * size
        self.at += 1

    def text(self, text: str, *, across: int = 8, bold: bool = False, pale: bool = False) -> None:
        """A line or a paragraph, over ``across`` columns."""
        from openpyxl.styles import Alignment

        square = self.put(self.at, 1, text)
        square.font = _font(bold=bold, italic=pale, color="595959" if pale else "000000")
        self.page.merge_cells(start_row=self.at, end_row=self.at, start_column=1, end_column=across)
        square.alignment = Alignment(vertical="top", wrap_text=True)
        self.page.row_dimensions[self.at].height = LINE * _lines(text, sum(map(self._wide, range(1, across + 1))))
        self.at += 1

    def fact(self, name: str, value: Value, fmt: str | None, *, across: int) -> None:
        """A name and its answer, over ``across`` columns together."""
        from openpyxl.styles import Alignment

        self.put(self.at, 1, name, bold=True)
        square = self.put(self.at, 2, value, fmt)
        square.alignment = Alignment("left", vertical="top", wrap_text=True)
        self.page.merge_cells(start_row=self.at, end_row=self.at, start_column=2, end_column=across)
        lines = _lines(str(value), sum(map(self._wide, range(2, across + 1))))
        self.page.row_dimensions[self.at].height = LINE * lines
        self.at += 1

    def head(self, names: Sequence[str], right: Collection[int] = ()) -> int:
        """The header of a table, columns of figures to the ``right``; returns its row."""
        from openpyxl.styles import Border, PatternFill, Side

        for col, name in enumerate(names, 1):
            square = self.put(self.at, col, name, bold=True, right=col in right)
            square.fill = PatternFill("solid", fgColor=HEAD)
            square.border = Border(bottom=Side("thin"))
        return self.end_row()

    def row(self, values: Sequence[Value], formats: Sequence[str | None] = (), *, bold: bool = False) -> int:
        """Cells side by side; returns their row."""
        for col, value in enumerate(values, 1):
            self.put(self.at, col, value, formats[col - 1] if col <= len(formats) else None, bold=bold)
        return self.end_row()

    def end_row(self) -> int:
        """Makes the row high enough for its texts, as no program does when it opens a file; returns it."""
        squares = [square for square in self.page[self.at] if isinstance(square.value, str) and square.data_type == "s"]
        lines = max((_lines(str(square.value), self._wide(square.column)) for square in squares), default=1)
        if lines > 1:
            self.page.row_dimensions[self.at].height = LINE * lines
        self.at += 1
        return self.at - 1

    def _wide(self, col: int) -> float:
        return float(self.page.column_dimensions[column(col)].width)

    def editable(self, row: int, col: int) -> None:
        from openpyxl.styles import PatternFill

        square = self.page.cell(row, col)
        square.font, square.fill = _font(color=BLUE), PatternFill("solid", fgColor=FILL)

    def check(self, row: int, col: int, plan: float | None, fmt: str | None = None) -> None:
        """What the plan says beside the figure in ``col``, and how far the sheet's is from it."""
        from openpyxl.formatting.rule import CellIsRule
        from openpyxl.styles import PatternFill

        if plan is None:
            return
        said, here = f"{column(col + 1)}{row}", f"{column(col)}{row}"
        self.put(row, col + 1, plan, fmt)
        self.put(row, col + 2, Formula(f"IF({said}=0,{here},{here}/{said}-1)"), "0.000%")
        marked = CellIsRule("notBetween", [str(-OFF), str(OFF)], fill=PatternFill("solid", bgColor=RED))
        self.page.conditional_formatting.add(f"{column(col + 2)}{row}", marked)
        self.checks.append(self.cell(row, col + 2))

    def page_break(self) -> None:
        """What follows starts on a page of its own."""
        from openpyxl.worksheet.pagebreak import Break

        self.page.row_breaks.append(Break(id=self.at - 1))

    def widths(self, *widths: float) -> None:
        for col, width in enumerate(widths, 1):
            self.page.column_dimensions[column(col)].width = width

    def print_setup(self, title_rows: int, *, frozen_columns: int = 0, pages_high: int = 0) -> None:
        """Landscape on A4, as wide as the page; the first ``title_rows`` rows stay, on screen and on every page.

        ``pages_high``: at most; 0 is as many as it takes.
        """
        page = self.page
        page.page_setup.orientation, page.page_setup.paperSize = "landscape", page.PAPERSIZE_A4
        page.page_setup.fitToWidth, page.page_setup.fitToHeight = 1, pages_high
        page.sheet_properties.pageSetUpPr.fitToPage = True
        page.print_title_rows = f"1:{title_rows}"
        page.oddFooter.center.text = "&A, &P / &N"
        page.sheet_view.showGridLines = False
        page.freeze_panes = f"{column(frozen_columns + 1)}{title_rows + 1}"


def _lines(text: str, wide: float) -> int:
    """Lines of a text in a column so many characters wide, where Chinese ones take two."""
    return max(math.ceil(sum(2 if ord(letter) > 0x2E80 else 1 for letter in text) / max(wide, 1)), 1)


def _font(*, bold: bool = False, italic: bool = False, size: int = 11, color: str = "000000") -> Font:
    from openpyxl.styles import Font

    return Font(name="Calibri", size=size, bold=bold, italic=italic, color=color)
