"""Parses remote access policies from YAML."""

from functools import lru_cache

import yaml

from linstor_affinity_events.errors import BadPolicy
from linstor_affinity_events.model.policy import MAX_TEXT, PolicyReading, read_policy


def _tree(text: str) -> object:
    # BaseLoader keeps every scalar as text (a label `yes` is not a boolean) and builds no objects.
    # It resolves aliases to shared references, so a YAML bomb stays small.
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506, BaseLoader is the safest loader
    except yaml.YAMLError as error:
        raise BadPolicy(" ".join(str(error).split())[:200]) from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise BadPolicy("nested too deeply, or not text") from error


def parse_policy(text: str) -> PolicyReading:
    """Read a policy. Thousands of volumes share a few policies, so each is parsed once."""
    # A text that is too long is rejected unparsed, and not cached: it may have megabytes.
    return _cached(text) if len(text) <= MAX_TEXT else read_policy(text, _tree)


@lru_cache(maxsize=256)
def _cached(text: str) -> PolicyReading:
    return read_policy(text, _tree)
