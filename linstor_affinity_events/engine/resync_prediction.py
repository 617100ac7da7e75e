"""When the binder will resync all claims, from the signs of its earlier resyncs."""

from collections import deque
from dataclasses import dataclass

RESYNC_PERIOD = 15.0
"""How often the binder resyncs all claims: --pvclaimbinder-sync-period of
kube-controller-manager, which hardly anybody changes.
"""

SAME_RESYNC = RESYNC_PERIOD / 2
"""For how many seconds after its begin a sign is one of the same resync."""

MARGIN_BEFORE, MARGIN_AFTER = 0.2, 0.5
"""For how many seconds before and after the expected begin nothing is removed, as long as it is not
known how long a resync takes.
"""

LEAST_BEFORE, LEAST_AFTER = 0.05, 0.1
MEASURED_BY = 3
"""How many signs of one resync tell how long it takes."""

SPREAD = 7
"""Of n signs at any time of a resync, the earliest comes later than 7/n of its length once in a
thousand times (exp(-7)).
"""

LAG_AT_MOST = 2.0
ENDED_AFTER = 0.2
"""A resync has ended if no further sign of it was seen for so many seconds."""

LONGEST = 2.0
"""After so many seconds nothing waits for its end: whoever keeps writing to a claim whose volume is
being replaced looks like a resync that does not end.
"""

AS_PREDICTED = 1.0
"""Up to how many seconds from its expected time a sign belongs to the expected resync."""

SIGNS = 4
"""Of how many resyncs the first sign is kept. Each resync comes some milliseconds later than the
period says, since that begins when the one before has queued all claims.
"""

SIGN_COUNTS_FOR = 5 * RESYNC_PERIOD
"""For how many seconds a sign is compared with later ones: those milliseconds add up."""

KNOWN_FOR = 600.0


@dataclass(slots=True)
class _Resync:
    first: float
    took: float = 0.0
    """From its begin, as was known by then, to its last sign."""

    signs: int = 1


class ResyncPrediction:
    """Times are those of one clock, in seconds.

    A sign comes when the binder gets to one of the claims, after up to half a second for thousands
    of claims, and never before the resync. So of all signs the earliest in the period is the
    closest to its begin.
    """

    def __init__(self) -> None:
        self._seen = deque[_Resync](maxlen=SIGNS)
        self._begin = self._last_sign = float("-inf")

    def saw(self, now: float, *, late: bool = False) -> None:
        """Record a sign of a resync: the binder restored a claimRef. Where the sign is a claim that
        was found Lost, which is noticed `late`, it only counts if no better one is known.
        """
        if not self._is_known(now):
            self._seen.clear()
        elif late:
            return
        self._last_sign = now
        if self._seen and now - self._begin < SAME_RESYNC:
            self._seen[-1].took = min(now - self._begin, AS_PREDICTED)
            self._seen[-1].signs += 1
            return
        while self._seen and now - self._seen[0].first > SIGN_COUNTS_FOR:
            self._seen.popleft()
        if any(abs(_offset(each.first, now)) > AS_PREDICTED for each in self._seen):
            # The period is another, or what was seen before was no resync.
            self._seen.clear()
        self._seen.append(_Resync(now))
        self._begin = now + min(_offset(each.first, now) for each in self._seen)

    def wait(self, now: float, *, lag: float) -> float:
        """For how many seconds no volume may be removed: 0 if no resync is expected.

        To a binder that is behind by a `lag`, a volume is absent for longer: it notices the
        creation after all that it has to do before.
        """
        if not self._is_known(now):
            return 0.0
        before, after = self._margins(now)
        since = (now - self._begin) % RESYNC_PERIOD
        if since > RESYNC_PERIOD - before - min(lag, LAG_AT_MOST):
            return RESYNC_PERIOD - since + after
        ends = min(self._last_sign + ENDED_AFTER, self._seen[-1].first + LONGEST)
        return max(0.0, after - since, ends - now)

    def _margins(self, now: float) -> tuple[float, float]:
        """The margins before and after the expected begin. If the last resync was seen by several
        signs, the time between them is how long one takes.
        """
        if now - self._seen[-1].first > 2 * RESYNC_PERIOD:
            return MARGIN_BEFORE, MARGIN_AFTER
        measured = [each.took for each in self._seen if each.signs >= MEASURED_BY]
        if not measured:
            return MARGIN_BEFORE, MARGIN_AFTER
        # The length is measured from the earliest sign, which makes it shorter by the same share.
        longest, signs = max(measured), sum(each.signs for each in self._seen)
        late = longest * SPREAD / max(signs - SPREAD, SPREAD)
        return LEAST_BEFORE + late, LEAST_AFTER + longest

    def _is_known(self, now: float) -> bool:
        """It is forgotten after a while, because clocks drift."""
        return now - self._last_sign <= KNOWN_FOR


def _offset(sign: float, now: float) -> float:
    """By how much the sign came earlier (if negative) or later in its period than one now."""
    return (sign - now + RESYNC_PERIOD / 2) % RESYNC_PERIOD - RESYNC_PERIOD / 2
