"""`make demo` prints what the README shows, and the tour of `make sandbox` is true."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from demo.sandbox import TOUR, VOLUMES
from tests.docs.blocks import TOP, shown
from tests.required import missing

EXPECTED = (
    "ok    in-place: ",
    f"{len(VOLUMES)} volumes: {len(VOLUMES)} in sync.",
    '"done"',
    "affinity  n2 or n5",
    "3 volumes: 1 in sync, 2 replace.",
)
"""In the output of each command of the tour."""


def without_figures(line: str) -> str:
    return re.sub(r"[\d.]+ ms|(?<=, )[\d./ ]+ms|:(\d+|PORT)\b", "", line).strip()


def test_the_demo_prints_what_the_readme_shows() -> None:
    [example] = [each for each in shown() if each.command == "make demo"]

    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=TOP, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    said = iter([without_figures(line) for line in done.stdout.splitlines()])
    for line in example.output.splitlines():
        assert line == "..." or without_figures(line) in said, line


@contextmanager
def sandbox() -> Iterator[str]:
    """What the sandbox says while it runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "demo", "--sandbox"], cwd=TOP, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Press Ctrl-C"):
                break
        try:
            yield said
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=60)
        assert code == 0


def test_the_sandbox_tour_works_as_documented() -> None:
    if not shutil.which("curl"):
        missing("THE TOUR OF THE SANDBOX IS NOT TESTED", "there is no curl")
    with sandbox() as said:
        exports = "\n".join(re.findall(r"^ +(export .*)$", said, re.MULTILINE))

        def run(command: str) -> str:
            script = f"{exports}\n{command}"
            done = subprocess.run(
                ["sh", "-c", script], cwd="/", capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        for (command, expected), words in zip(TOUR, EXPECTED, strict=True):
            assert command in said
            assert expected in said
            until, out = time.monotonic() + 30, run(command)
            while words not in out and "curl" not in command and time.monotonic() < until:
                out = run(command)
            assert words in out
