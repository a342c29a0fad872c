"""``python -m calibrate.measure``: kernel timings from any Python that has torch and pydantic.

One JSON object on stdout: what was measured, or the error. ``twin calibrate kernels`` calls this in another interpreter.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from calibrate.measure.log import KEYS, WORDS
from calibrate.measure.machine import DEVICES
from calibrate.measure.run import Request, run, summary_of
from twin.base import TwinError, parse_duration

PROGRESS_EVERY_S = 10.0


def parser() -> argparse.ArgumentParser:
    """The options; ``twin calibrate kernels`` has the same."""
    options = argparse.ArgumentParser(prog="python -m calibrate.measure", description=__doc__)
    options.add_argument("--device", choices=DEVICES, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--family", action="append", default=[], choices=list(KEYS))
    options.add_argument("--dtype", action="append", default=[], choices=list(WORDS["dtype"]))
    options.add_argument("--threads", type=int)
    options.add_argument("--wait", default="0s")
    options.add_argument("--quiet", action="store_true")
    return options


class Reporter:
    """Lines on stderr: a terminal sees the state change in place, a log file one line in ten seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last, self._open = quiet, 0.0, False

    def tell(self, text: str) -> None:
        if not self._quiet:
            print(("\n" if self._open else "") + text, file=sys.stderr, flush=True)
            self._open = False

    def progress(self, text: str) -> None:
        if self._quiet:
            return
        if sys.stderr.isatty():
            print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)
            self._open = True
        elif time.monotonic() - self._last > PROGRESS_EVERY_S:
            self._last = time.monotonic()
            print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code as of ``twin``: 0 done, 1 cannot go on, 2 bad input, 130 interrupted."""
    options = parser().parse_args(argv)
    reporter = Reporter(options.quiet)
    try:
        request = Request(
            device=options.device,
            out=options.out,
            quick=options.quick,
            families=tuple(options.family),
            dtypes=tuple(options.dtype),
            threads=options.threads,
            wait_s=parse_duration(options.wait, what="--wait", bare="s"),
        )
        outcome = run(request, reporter.tell, reporter.progress)
    except TwinError as error:
        if sys.stdout.isatty():
            reporter.tell(f"error: {error}")
        print(json.dumps({"error": error.as_json()}))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(json.dumps(summary_of(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
