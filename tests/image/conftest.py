"""One image for all tests, or a loud word where none can be built."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import fake_testbed
from tests.image.contained import SECCOMP
from tests.image.engine import Image, built, lacking
from tests.real_parts.build import BuildError
from tests.real_parts.debian import TOP, CannotBeHad, ensure_tree
from tests.required import missing

__all__ = ["fake_testbed"]

UNTESTED = "THE IMAGE IS NEITHER BUILT NOR TESTED"


def _tree() -> Path:
    lack = [*lacking(), *([] if SECCOMP.exists() else [str(SECCOMP)])]
    if lack:
        missing(UNTESTED, f"{' and '.join(lack)} are lacking")
    try:
        return ensure_tree()
    except CannotBeHad as reason:
        missing(UNTESTED, str(reason))
    except BuildError as failure:
        pytest.fail(str(failure), pytrace=False)


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """Built from the Dockerfile, on a base that is made here."""
    with built(TOP, _tree()) as found:
        yield found
