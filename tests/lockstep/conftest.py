"""Says at the end of the tests which oracle the engine was compared with."""

import pytest

SEEN: dict[str, int] = {}


@pytest.fixture(scope="session")
def seen() -> dict[str, int]:
    """Steps compared, by what they were compared with."""
    return SEEN


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEEN:
        live = [
            f"{steps:,} steps against {oracle}, live" for oracle, steps in SEEN.items() if oracle.startswith("vLLM")
        ]
        recorded = f"{SEEN.get('recorded', 0):,} recorded steps"
        missing = [] if live else ["no live vLLM here (make oracle installs it)"]
        terminalreporter.write_line(f"lockstep: {'; '.join([*live, recorded, *missing])}")
