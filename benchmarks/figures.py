"""What one run comes to."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run; times in milliseconds."""

    run: str
    volumes: int
    p50: float
    p90: float
    p99: float
    worst: float
    per_second: float
    away: float
    """How long a volume was away, between the watch events of removal and creation; the median."""

    away_worst: float
    lost: int
    """Claims that a watch saw turn Lost."""

    notes_left: int


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figures(
    run: str, waits: list[float], took: float, away: list[float], lost: int, notes: int
) -> Figures:
    ordered = sorted(1000 * wait for wait in waits)
    gaps = sorted(1000 * gap for gap in away)
    return Figures(
        run=run,
        volumes=len(ordered),
        p50=statistics.median(ordered),
        p90=percentile(ordered, 0.9),
        p99=percentile(ordered, 0.99),
        worst=ordered[-1],
        per_second=len(ordered) / took,
        away=statistics.median(gaps),
        away_worst=gaps[-1],
        lost=lost,
        notes_left=notes,
    )
