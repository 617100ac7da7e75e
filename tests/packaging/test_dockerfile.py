"""The image can be built for every architecture that its base exists for."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

BOUND = re.compile(
    r"amd64|x86|i386|arm64|armv\d|aarch64|ppc64|s390|riscv|TARGET(ARCH|PLATFORM)|BUILD(ARCH|PLATFORM)"
    r"|--platform|manylinux|musllinux",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", ["Dockerfile", "packaging/install", ".dockerignore"])
def test_no_step_depends_on_an_architecture(path: str) -> None:
    assert BOUND.findall((TOP / path).read_text()) == []
