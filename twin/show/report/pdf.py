"""The report on A4, from the same HTML."""

from __future__ import annotations

from twin.base import InputError, not_installed
from twin.show.report.blocks import Report
from twin.show.report.html import html
from twin.show.words import Say


def pdf(made: Report, say: Say) -> bytes:
    """Raises :class:`InputError` where WeasyPrint, the libraries it loads, or another package is not installed."""
    try:
        import weasyprint
    except ImportError as error:
        raise not_installed("a report in PDF", error.name, "dashboard") from None
    except OSError:
        raise InputError(
            "a report in PDF needs Pango, a library of the system (apt install libpangoft2-1.0-0 libharfbuzz-subset0); a report"
            " in HTML does without"
        ) from None
    document = weasyprint.HTML(string=html(made, say), url_fetcher=_nothing).render()
    found: bytes = document.write_pdf(pdf_identifier=b"twin")
    return found


def _nothing(url: str, *_: object, **__: object) -> dict[str, object]:
    """A report fetches nothing."""
    raise ValueError(f"a report fetches nothing, not even {url}")
