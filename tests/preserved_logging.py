"""Puts back what a test changes for the whole process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from linstor_affinity_events.logs import QUIET_LIBRARIES


@contextmanager
def preserved_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in QUIET_LIBRARIES}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
