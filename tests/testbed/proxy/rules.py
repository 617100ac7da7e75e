"""Which requests an action applies to."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.testbed.proxy.actions import Action
from tests.testbed.proxy.record import Asked

Wanted = str | re.Pattern[str] | Callable[[Asked], bool]
"""A label, a pattern that is searched for in `str(asked)`, or a question."""


@dataclass(slots=True, kw_only=True)
class Rule:
    """Applies from the nth matching request on, `times` in all; None has no end."""

    wanted: Wanted
    action: Action
    nth: int = 1
    times: int | None = 1
    observed: int = 0
    """Requests that it wanted so far, struck or not."""
    hits: int = 0
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it applies for the first time, before the action."""

    def meets(self, asked: Asked) -> bool:
        """Count the request if it is wanted; returns whether it is due."""
        if not self._wants(asked):
            return False
        self.observed += 1
        return self.observed >= self.nth and (self.times is None or self.hits < self.times)

    def strike(self) -> Action:
        self.hits += 1
        self.struck.set()
        return self.action

    def _wants(self, asked: Asked) -> bool:
        if isinstance(self.wanted, str):
            return self.wanted == asked.label
        if isinstance(self.wanted, re.Pattern):
            return self.wanted.search(str(asked)) is not None
        return self.wanted(asked)


class Rules:
    """The oldest rule that is due has the request."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        self._rules.remove(rule)

    def clear(self) -> None:
        self._rules.clear()

    def action_for(self, asked: Asked) -> Action | None:
        # All of them count it: what a rule's nth request is must not depend on other rules.
        meeting = [rule for rule in self._rules if rule.meets(asked)]
        return meeting[0].strike() if meeting else None
