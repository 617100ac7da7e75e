"""Everything put together: a cluster, LINSTOR, the service as a process, and an observer.

End-to-end tests, the demo and the benchmarks run on it.
"""
