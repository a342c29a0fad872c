"""The report as Markdown: tables as tables, charts as they look in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from twin.show.report.blocks import Block, Bullets, Command, Facts, Figure, Paragraph, Report, Table, Text
from twin.show.report.forms import plain
from twin.show.words import Say

WIDTH, HEIGHT = 96, 20


def markdown(made: Report, say: Say) -> str:
    lines = [f"# {_inline(made.title, say)}", "", _inline(made.subtitle, say), ""]
    for section in made.sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [*_block(block, say), ""]
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block, say: Say) -> Iterator[str]:
    match block:
        case Paragraph():
            text = _inline(block.text, say)
            yield {"verdict": f"**{text}**", "warning": f"> {text}"}.get(block.kind, text)
        case Facts():
            yield from _grid([("", "")] + [(_inline(a, say), _inline(b, say)) for a, b in block.rows], "ll")
        case Bullets():
            yield from (
                f"{f'{at}.' if block.numbered else '-'} {_inline(item, say)}" for at, item in enumerate(block.items, 1)
            )
        case Table():
            yield from _table(block, say)
        case Figure():
            from twin.show.draw.terminal_chart import text as terminal

            yield f"**{block.chart.title}**"
            yield from ("", "```text", terminal(block.chart, width=WIDTH, height=HEIGHT).rstrip("\n"), "```")
        case Command():
            yield f"**{_inline(block.title, say)}**"
            yield from ("", "```sh", *(plain(line, say) for line in block.lines), "```")


def _table(table: Table, say: Say) -> Iterator[str]:
    yield f"**{_inline(table.caption, say)}**"
    yield ""
    rows = [[_inline(cell, say) for cell in table.head]]
    for row in table.rows:
        texts = [_inline(cell, say) for cell in row.cells]
        bold = [f"**{text}**" if text and row.kind != "plain" else text for text in texts]
        rows.append(bold + [""] * (len(table.head) - len(bold)))
    yield from _grid(rows, "".join(align[0] for align in table.align))
    if table.note:
        yield from ("", _inline(table.note, say))


def _grid(rows: list[list[str]] | list[tuple[str, str]], align: str) -> Iterator[str]:
    head, *body = rows
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join({'l': '---', 'r': '---:'}[side] for side in align)}|"
    yield from (f"| {' | '.join(row)} |" for row in body)


def _inline(text: Text, say: Say) -> str:
    """One line in which a bar or a star of a run breaks nothing."""
    said = " ".join(plain(text, say).split())
    return said.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
