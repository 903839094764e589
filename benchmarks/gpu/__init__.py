"""What `benchmarks/gpu.sh` runs on a GPU: stages, each a process of its own, and what becomes of their results."""
