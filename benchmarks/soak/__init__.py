"""A long run in which everything goes wrong that can, and what the service makes of it.

Nothing is imported here: the service runs in a module of this package, and is measured.
"""
