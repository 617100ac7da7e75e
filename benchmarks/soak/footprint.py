"""What a process takes up, as the kernel tells it."""

from dataclasses import dataclass
from pathlib import Path

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    rss_mib: float
    threads: int
    sockets: int
    files: int
    """All open descriptors, sockets among them."""


def footprint(pid: int) -> Footprint:
    """Read it from /proc, which only Linux has."""
    own = Path("/proc") / str(pid)
    told = dict(line.split(":", 1) for line in (own / "status").read_text().splitlines())
    targets = [_target(link) for link in (own / "fd").iterdir()]
    return Footprint(
        rss_mib=int(told["VmRSS"].split()[0]) / KIB,
        threads=int(told["Threads"]),
        sockets=sum(target.startswith("socket:") for target in targets),
        files=len(targets),
    )


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""  # It was closed since the directory was read.
