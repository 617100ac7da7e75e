"""A wall clock that jumps, for one process: wall_clock.c, made by the compiler of the machine."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True, slots=True)
class WallClock:
    """Its environment, given to a process, lets that process's wall clock be set."""

    library: Path
    shift: Path

    @classmethod
    def within(cls, directory: Path) -> "WallClock":
        """Skips the test, loudly, where nothing can compile it."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("NOT TESTED WITH A JUMPING CLOCK: there is no C compiler")
        library = directory / "wall_clock.so"
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        made = cls(library, directory / "shift")
        made.set(0.0)
        return made

    @property
    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "WALL_CLOCK_SHIFT": str(self.shift)}

    def set(self, hours: float) -> None:
        """Let it differ from the true time by so many hours."""
        new = self.shift.with_suffix(".new")
        new.write_text(str(round(hours * 3600)))
        os.replace(new, self.shift)  # noqa: PTH105
