"""How several processes share the tests (pytest-xdist).

Each goes to whichever process is free. One that meets a test for a real control plane starts its
own, and keeps it to the end: that costs some seconds of a core, less than to wait for each other.
"""

import os
import shutil

import pytest

AT_MOST = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` is: most tests wait for others more than they compute. Without a
    Go toolchain none of them starts a control plane, which leaves room for more.
    """
    each = 2 if shutil.which("go") else 3
    return min(each * (os.cpu_count() or 1), AT_MOST)
