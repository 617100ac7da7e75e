"""What a soak run found, as tables with goals."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.report import Goal, Report, Row
from benchmarks.soak.lost_claims import Because
from benchmarks.soak.steady_state import TIMEOUT, SteadyState

RSS_GROWTH, TASK_GROWTH, SOCKET_GROWTH, FILE_GROWTH, THREAD_GROWTH = 8.0, 2, 4, 6, 2
WARMING_UP = 1
"""Steady phases before which caches are still being filled."""

CHANGES = "linstor_affinity_changes_total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    title: str
    steady_phases: Sequence[SteadyState]
    done: Mapping[str, int]
    metrics: Mapping[str, float]
    """As the service reported them at the end, by name and labels."""
    lost: Mapping[Because, int]
    retained: int
    unforeseen: int
    exit_code: int

    def reports(self) -> list[Report]:
        return [self._calms(), self._growth(), self._actions(), self._outcome()]

    def _calms(self) -> Report:
        rows: list[Row] = [
            {
                "minute": each.minute,
                "right after (s)": each.right_after,
                "wrong": len(each.wrong),
                "late moves": each.late,
                "RSS (MiB)": each.size.rss,
                "tasks": each.tasks,
                "threads": each.size.threads,
                "sockets": each.size.sockets,
                "files": each.size.files,
            }
            for each in self.steady_phases
        ]
        last = self.steady_phases[-1].wrong
        goals = [
            Goal(
                what="slowest steady phase",
                found=max(c.right_after for c in self.steady_phases),
                most=TIMEOUT,
            ),
            Goal(
                what="wrong in any steady phase",
                found=sum(len(c.wrong) for c in self.steady_phases),
                most=0,
            ),
            Goal(what="wrong at the end", found=len(last), most=0),
            Goal(what="missing at the end", found=sum(w.missing for w in last), most=0),
            Goal(what="late moves", found=sum(c.late for c in self.steady_phases), most=0),
        ]
        return Report(
            name="soak-steady-phases",
            title=f"{self.title}: each steady phase",
            rows=rows,
            goals=goals,
        )

    def _growth(self) -> Report:
        goals = [
            self._grown("RSS", lambda c: c.size.rss, RSS_GROWTH, " MiB"),
            self._grown("tasks", lambda c: c.tasks, TASK_GROWTH),
            self._grown("sockets", lambda c: c.size.sockets, SOCKET_GROWTH),
            self._grown("files", lambda c: c.size.files, FILE_GROWTH),
            self._grown("threads", lambda c: c.size.threads, THREAD_GROWTH),
        ]
        rows: list[Row] = [{"what": goal.what, "growth": goal.found} for goal in goals]
        title = f"{self.title}: median of the last third against that of the first"
        return Report(name="soak-growth", title=title, rows=rows, goals=goals)

    def _grown(
        self, what: str, of: Callable[[SteadyState], float], most: float, unit: str = ""
    ) -> Goal:
        warm = self.steady_phases[WARMING_UP:]
        third = max(1, len(warm) // 3)
        first, last = median(map(of, warm[:third])), median(map(of, warm[-third:]))
        return Goal(what=f"growth of {what}", found=last - first, most=most, unit=unit)

    def _actions(self) -> Report:
        rows: list[Row] = [
            {"action": action, "times": times} for action, times in sorted(self.done.items())
        ]
        return Report(name="soak-actions", title=f"{self.title}: actions", rows=rows)

    def _outcome(self) -> Report:
        found = Counter(
            {name: count for name, count in self.metrics.items() if name.startswith(OUTCOMES)}
        )
        rows: list[Row] = [
            {"what": name, "times": int(count)} for name, count in sorted(found.items())
        ]
        rows.append(
            {
                "what": "volumes recreated with Retain because their claim was deleted",
                "times": self.retained,
            }
        )
        rows += [{"what": f"claims Lost {why}", "times": n} for why, n in self.lost.items()]
        unknown = self.lost[Because.UNKNOWN]
        goals = [
            Goal(what=f"claims Lost {Because.UNKNOWN}", found=unknown, most=0),
            Goal(what="unexpected errors logged", found=self.unforeseen, most=0),
            Goal(what="exit code", found=self.exit_code, most=0),
        ]
        return Report(name="soak-outcome", title=f"{self.title}: outcome", rows=rows, goals=goals)


OUTCOMES = (
    CHANGES,
    "linstor_affinity_drift_without_event_total",
    "linstor_affinity_claims_lost_total",
    "linstor_affinity_reconcile_errors_total",
    "linstor_affinity_full_reconcile_errors_total",
    "linstor_affinity_stream_connects_total",
)


def read_metrics(text: str) -> dict[str, float]:
    """Prometheus' text format as figures by name and labels."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
