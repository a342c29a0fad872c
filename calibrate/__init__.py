"""Measuring and fitting: from kernels and runs to hardware profiles. May import ``twin``; ``twin`` never imports this
except inside the commands of ``twin calibrate``."""
