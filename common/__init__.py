"""The shared packages of the suite; see docs/house.md."""

import os

# Threads that wait busily for the next parallel loop keep other processes from working, and are
# kept from working by them: with another process on both cores, a registration took 12 s a bone
# instead of 5 (benchmarks/README.md, 'Threads that wait'). OpenMP reads this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
