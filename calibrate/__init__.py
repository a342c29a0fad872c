"""Measuring and fitting: from kernels and runs to hardware profiles.

May import ``twin``; ``twin`` imports this only inside the commands of ``twin calibrate``.
"""
