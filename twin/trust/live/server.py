"""``vllm serve`` in a process group of its own: started, waited for, and ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from twin.base import InputError, TwinError
from twin.trust.live.cores import give_cores

SERVE = Path(__file__).with_name("serve.py")
READY_S = 900.0
LOOK_S = 0.25
PATIENCE_S = 20.0
HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> int:
    """``port``, if it is free. Raises :class:`InputError` for one in use or out of range."""
    if not 1 <= port <= 65535:
        raise InputError(f"--port is 1 … 65535, not {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise InputError(f"port {port} cannot be used: {said}; without --port a free one is taken") from None
    return port


class Server:
    """A running ``vllm serve``; a context that leaves no process behind, whatever happens inside.

    Raises :class:`TwinError` when it does not get ready.
    """

    def __init__(self, command: Sequence[str | Path], port: int, env: Mapping[str, str]) -> None:
        self.base_url = f"http://{HOST}:{port}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._command, self._env = [str(word) for word in command], dict(os.environ) | dict(env)

    def __enter__(self) -> Server:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
            self._await_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def give_cores(self, count: int) -> list[int]:
        """See :func:`twin.trust.live.cores.give_cores`."""
        return [] if self._process is None else give_cores(self._process.pid, count)

    @property
    def died(self) -> str | None:
        """How it ended, in words; ``None`` while it runs."""
        code = self._process.poll() if self._process is not None else 0
        return None if code is None else f"the server ended with {code}: {self.last_words()}"

    def last_words(self) -> str:
        """The last error in its output, else the last line."""
        self._output.seek(0)
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error: " in line or line.startswith("error:")]
        root = [line for line in errors if "See root cause above" not in line]
        return (root or lines or ["no message"])[-1].partition("] ")[2] or (root or lines or ["no message"])[-1]

    def _await_ready(self) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            if self.died is not None:
                raise TwinError(f"the server did not start: {self.last_words()}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.base_url}/health", timeout=2).close()
                return
            time.sleep(LOOK_S)
        raise TwinError(f"the server was not ready after {READY_S:.0f} s")

    def close(self) -> None:
        """Asks the server to end, which takes its engine along; what does not obey is killed."""
        if self._process is not None:
            end_group(self._process)
        self._output.close()


def end_group(process: subprocess.Popen[Any], patience_s: float = PATIENCE_S) -> None:
    """Ends a process and everything in the group that it leads; an interrupt meanwhile does not stop that."""
    interrupted = False
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        try:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if process.poll() is None or number == signal.SIGKILL:
                    os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
        except KeyboardInterrupt:
            interrupted = True
    for _ in range(40):  # what was killed takes a moment to be gone
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            break
        time.sleep(0.05)
    if interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM is an interrupt, so that what must be ended and kept is."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
