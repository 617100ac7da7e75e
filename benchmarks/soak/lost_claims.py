"""Claims that become Lost, and whether that is a limit which is known.

The binder loses a claim when it checks it while the volume is away and it has not learned why:
when it resyncs, each 15 s from its start, and when it restarts with a list.
"""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from benchmarks.soak.actions import Context
from benchmarks.soak.runner import Runner

RESYNC = 15.0
TAKES = 1.0
"""For so long after the beginning of such a resync claims become Lost by it."""

CATCHES_UP = 10.0
"""After the API server was away, until the binder has listed again."""

FOREVER = 1e6
_SYNCED = re.compile(r"^I(?P<at>\d{4} \d\d:\d\d:\d\d\.\d+).*Caches are synced", re.MULTILINE)


class Because(StrEnum):
    RESYNC = "during a resync of the binder"
    RESTARTED = "after a restart of the binder"
    DELETED = "while their users deleted them"
    UNKNOWN = "for an unknown reason"


class LostClaims:
    def __init__(self, context: Context, runner: Runner, binder: Path) -> None:
        self._context, self._runner, self._binder = context, runner, binder
        self._observer = context.oracle.testbed.observer
        self.found: dict[Because, int] = dict.fromkeys(Because, 0)

    async def run(self) -> None:
        lost = self._observer.lost
        while True:
            await self._observer.until(lambda: bool(lost), "a claim is Lost", within=FOREVER)
            usual = self._reason(datetime.now())  # noqa: DTZ005, as in the binder's log
            going = {owned.claim for owned in self._context.oracle.going.values()}
            for _, name in lost:
                # Any change of a claim makes the binder sync it.
                why = Because.DELETED if name in going else usual
                self._runner.say("LOST", name, why)
                self.found[why] += 1
            lost.clear()

    def _reason(self, now: datetime) -> Because:
        if self._context.since_halted < CATCHES_UP:
            return Because.RESTARTED
        said = _SYNCED.findall(self._binder.read_text(errors="replace"))
        if said:
            begun = datetime.strptime(f"{now.year}{said[-1]}", "%Y%m%d %H:%M:%S.%f")  # noqa: DTZ007
            completed = (now - begun) / timedelta(seconds=1)
            if completed % RESYNC < TAKES:
                return Because.RESYNC
        return Because.UNKNOWN
