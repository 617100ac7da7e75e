"""Runs one of the built programs: `python -m tests.real_parts.run helm version`."""

import os
import sys

from tests.real_parts.build import ACTIONLINT, CSI, HELM, BuildError, chosen, ensure_built


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    modules = (HELM, ACTIONLINT, chosen(), *CSI)
    for module in modules:
        if name in module.packages:
            program = str(ensure_built(module) / name)
            os.execv(program, [program, *sys.argv[2:]])  # noqa: S606, this is all it is for
    known = [program for module in modules for program in module.packages]
    sys.exit(f"{name!r} is none of {', '.join(known)}")


if __name__ == "__main__":
    try:
        main()
    except BuildError as failure:
        sys.exit(str(failure))
