"""Timing kernels on this machine's device with torch, into a log of JSON lines that the fits read.

Everything here but :mod:`calibrate.measure.tables` runs in any Python that has torch and pydantic, such as an engine's own
environment: ``python -m calibrate.measure --device cuda --out kernels.jsonl``.
"""
