"""A workbook computed as Excel would, by the package ``formulas``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import formulas
import openpyxl


class Computed:
    """Values of all cells. ``changed``: inputs by their name in column A, written over before anything is computed."""

    def __init__(self, data: bytes, folder: Path, changed: dict[str, float] | None = None) -> None:
        file = folder / "book.xlsx"
        file.write_bytes(data)
        self.book = openpyxl.load_workbook(file)
        for name, value in (changed or {}).items():
            self.book["Inputs"].cell(self.row("Inputs", name), 2).value = value
        self.book.save(file)
        self._model = formulas.ExcelModel().loads(str(file)).finish()
        self._values = self._solved({})

    def again(self, row: int, value: float) -> dict[str, Any]:
        """All values with one input, of column B, written over."""
        return self._solved({f"'[book.xlsx]INPUTS'!B{row}": value})

    def _solved(self, inputs: dict[str, float]) -> dict[str, Any]:
        solved = self._model.calculate(inputs=inputs)
        return {str(key): found.value[0, 0] for key, found in solved.items() if hasattr(found, "value")}

    def row(self, sheet: str, name: str, nth: int = 0) -> int:
        """The ``nth`` row whose first cell says ``name``."""
        column = next(self.book[sheet].iter_cols(max_col=1))
        rows: list[int] = [square.row for square in column if square.value == name]
        return rows[nth]

    def changed(self, after: dict[str, Any], keys: list[str]) -> list[str]:
        """Which of ``keys`` are not what they were."""
        return [key for key in keys if after[key] != self._values[key]]

    def at(self, sheet: str, row: int, col: int) -> Any:
        letter = openpyxl.utils.get_column_letter(col)
        return self._values[f"'[book.xlsx]{sheet.upper()}'!{letter}{row}"]

    def column(self, sheet: str, head: str, rows: range, of: int = 1) -> list[Any]:
        """Under the first header cell that says ``head``."""
        [square, *_] = [c for row in self.book[sheet].iter_rows() for c in row if c.value == head]
        return [self.at(sheet, row, square.column) for row in rows]

    def checked(self) -> list[str]:
        """The figures that stand beside what the plan says."""
        return [
            f"'[book.xlsx]{sheet.title.upper()}'!{openpyxl.utils.get_column_letter(square.column - 2)}{square.row}"
            for sheet in self.book
            for row in sheet.iter_rows()
            for square in row
            if square.number_format == "0.000%" and str(square.value).startswith("=IF(")
        ]

    def errors(self) -> list[str]:
        return [key for key, value in self._values.items() if str(value).startswith("#")]
