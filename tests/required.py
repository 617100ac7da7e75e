"""What a test can't do without: skipped loudly where it is missing, unless it has to be there."""

import os
from typing import NoReturn

import pytest


def missing(untested: str, reason: str) -> NoReturn:
    """End a test that needs what is not there; `untested` says, loudly, what is not tried."""
    # A run that is meant to prove something must not pass because it tried nothing.
    if os.environ.get("REQUIRE_REAL_PARTS") == "1":
        pytest.fail(f"REQUIRE_REAL_PARTS=1, but {reason}", pytrace=False)
    pytest.skip(f"{untested}: {reason}")
