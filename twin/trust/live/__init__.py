"""A real vLLM, started, driven and watched: what ``twin verify`` and ``twin calibrate engine`` share.

:mod:`twin.trust.live.serve` and :mod:`twin.trust.live.client` are programs of their own, with nothing but the
standard library, and vLLM for the first.
"""
