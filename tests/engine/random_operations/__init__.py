"""Instances of the engine on one fake cluster, with random operations and faults."""
