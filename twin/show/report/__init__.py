"""The procurement report: what it says (``content``), and how it is written: HTML, PDF, Markdown, Excel."""
