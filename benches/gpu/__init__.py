"""What `benches/gpu_check.py` runs: the steps of two calls on a machine with a GPU, and their rehearsal on the CPU.

A step is a module of this package that is a program of its own (`python -m gpu.agreement bfloat16`). It imports nothing
of the runner and writes each result at once, by `records.emit`. `runner` gives each its time, and goes on when one
crashes or hangs; `plan` lists them; `table` makes a page of what they wrote.
"""
