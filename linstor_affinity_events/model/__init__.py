"""The state of the cluster and what follows from it. Pure: no I/O, tasks, clock or logging."""
