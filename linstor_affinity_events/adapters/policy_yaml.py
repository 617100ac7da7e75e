"""Remote access policies as YAML text."""

from functools import lru_cache

import yaml

from linstor_affinity_events.errors import BadPolicy
from linstor_affinity_events.model.policy import MAX_TEXT, PolicyReading, read_policy


def _tree(text: str) -> object:
    # BaseLoader keeps every scalar as text (a label `yes` is no boolean) and builds no objects.
    # Aliases it resolves to shared references, so a YAML bomb stays small.
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506, BaseLoader is the safest one
    except yaml.YAMLError as error:
        raise BadPolicy(" ".join(str(error).split())[:200]) from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise BadPolicy("nested too deeply, or not text") from error


def parse_policy(text: str) -> PolicyReading:
    """Read a policy text; thousands of volumes share a few, so each is read once."""
    # One that is too long is refused unread, and not worth a place: it might be megabytes.
    return _kept(text) if len(text) <= MAX_TEXT else read_policy(text, _tree)


@lru_cache(maxsize=256)
def _kept(text: str) -> PolicyReading:
    return read_policy(text, _tree)
