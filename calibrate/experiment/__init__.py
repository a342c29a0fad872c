"""A designed experiment on a real vLLM engine: what a running engine adds to its kernels, step by step.

:mod:`calibrate.experiment.design` says what is run, :mod:`calibrate.experiment.run` starts it, and the two modules under
``inside`` run in vLLM's own environment with nothing but vLLM and the standard library.
"""
