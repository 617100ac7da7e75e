"""Everything put together: a cluster, LINSTOR, the service as a process, and somebody watching.

End-to-end tests, the demo and the benchmarks play on it.
"""
