"""Start, watch and stop everything a platform consists of, on one machine, from wheels.

What does not belong: anything a distributed deployment would need as well. There, something else
starts the processes, and the same settings say where they are.
"""
