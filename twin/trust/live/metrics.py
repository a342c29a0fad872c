"""What a running vLLM server says of itself: its version, its model, its KV cache, its gauges."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable

from twin.base import Frozen, InputError

SAMPLE = re.compile(r"^(\w[\w:]*)(?:\{(.*)\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class ServerFacts(Frozen):
    """``num_gpu_blocks`` and ``block_size`` (tokens) of each engine behind the server; ``engines`` of them."""

    vllm_version: str
    model: str
    max_model_len: int | None
    num_gpu_blocks: int
    block_size: int
    enable_prefix_caching: bool
    engines: int


def samples(text: str) -> Iterable[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample in Prometheus' text format; other lines are skipped."""
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match and not line.startswith("#"):
            try:
                yield match[1], dict(LABEL.findall(match[2] or "")), float(match[3])
            except ValueError:
                continue


def server_facts(base_url: str) -> ServerFacts:
    """Asks a server. Raises :class:`InputError` for one that does not answer or is not vLLM."""
    version = _json(base_url, "/version").get("version")
    found = [labels for name, labels, _ in samples(_get(base_url, "/metrics")) if name == "vllm:cache_config_info"]
    if not isinstance(version, str) or not found:
        what = "this is not a vLLM server with metrics: its /version or vllm: metrics are missing"
        raise InputError(f"{what} (--disable-log-stats switches them off)", where=base_url)
    models = _json(base_url, "/v1/models").get("data")
    if not isinstance(models, list) or not models or not isinstance(models[0], dict):
        raise InputError("the server serves no model", where=base_url)
    cache = found[0]
    try:
        return ServerFacts(
            vllm_version=version,
            model=str(models[0]["id"]),
            max_model_len=models[0].get("max_model_len"),
            num_gpu_blocks=int(cache["num_gpu_blocks"]),
            block_size=int(cache["block_size"]),
            enable_prefix_caching=cache.get("enable_prefix_caching") == "True",
            engines=len(found),
        )
    except (KeyError, ValueError):
        raise InputError("its vllm:cache_config_info does not tell the KV cache", where=base_url) from None


def _json(base_url: str, path: str) -> dict[str, object]:
    try:
        found = json.loads(_get(base_url, path))
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _get(base_url: str, path: str) -> str:
    try:
        with urllib.request.urlopen(base_url.rstrip("/") + path, timeout=10) as answer:
            return str(answer.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise InputError(f"the server wants credentials for {path}", where=base_url) from None
        return ""  # not vLLM: the caller says so
    except (OSError, ValueError) as error:
        said = getattr(error, "reason", error)
        raise InputError(f"no server answers: {said}", where=base_url) from None
