"""What a run was made from, as hashes for its manifest: the same bytes went in if the same hash comes out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from twin.base import InputError, data_dir
from twin.spec.scenario import Traffic


def file_hash(path: Path) -> dict[str, str]:
    """A file's name, without where it lies, and the sha256 of its bytes. Raises :class:`InputError` where it is gone."""
    try:
        with path.open("rb") as file:
            return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", where=str(path)) from None


def traffic_hash(traffic: Traffic) -> dict[str, str]:
    """Of the trace file; of made-up traffic, of its recipe as JSON with sorted keys, a trace that lengths are drawn from
    standing in it by its own hash. Raises as :func:`file_hash`.
    """
    if traffic.synthetic is None:
        return file_hash(Path(str(traffic.trace)))
    recipe = traffic.synthetic.model_dump(mode="json")
    if traffic.synthetic.lengths_from is not None:
        recipe["lengths_from"] = file_hash(Path(traffic.synthetic.lengths_from))
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {"name": "recipe in scenario.yaml", "sha256": hashlib.sha256(canonical.encode()).hexdigest()}


def price_book_hash(path: Path | None) -> dict[str, str]:
    """Of the user's price book, or of the shipped one. Raises as :func:`file_hash`."""
    return file_hash(data_dir("hwprofiles") / "prices.yaml" if path is None else path)
