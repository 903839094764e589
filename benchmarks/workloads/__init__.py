"""The workloads of the Parrot paper, on simulated workers."""
