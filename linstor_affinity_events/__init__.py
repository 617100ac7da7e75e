"""Keeps the node affinity of PersistentVolumes in step with LINSTOR's replicas."""

__version__ = "0.1.0"
