"""The resources that a program uses, as Linux shows them in /proc."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PEAK_TOO = "5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUsage:
    """At one moment; memory in MiB."""

    cpu: float
    """Seconds of all cores since it began, in itself and in the system for it."""
    rss: float
    peak: float
    """The most RSS since it began, or since `forget_peak`."""
    threads: int
    sockets: int
    files: int
    """All open descriptors, sockets among them."""

    @classmethod
    def of(cls, pid: int) -> Self:
        proc = Path("/proc") / str(pid)
        status = (proc / "status").read_text()
        targets = [_target(link) for link in (proc / "fd").iterdir()]
        # The name in parentheses may contain anything, blanks included.
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        return cls(
            cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
            rss=_number(status, "VmRSS") / 1024,
            peak=_number(status, "VmHWM") / 1024,
            threads=_number(status, "Threads"),
            sockets=sum(target.startswith("socket:") for target in targets),
            files=len(targets),
        )


def forget_peak(pid: int) -> None:
    """Let the peak begin again at what is used now. See proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text(_PEAK_TOO)


def _number(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    if found is None:
        raise ValueError(f"/proc tells no {name}: the process has ended")
    return int(found[1])


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""  # It was closed since the directory was read.
