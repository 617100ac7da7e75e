"""Runs one of the built programs: `python -m tests.real_parts.run helm version`."""

import os
import sys

from tests.real_parts.build import HELM, KUBERNETES, BuildError, ensure_built


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    for module in (HELM, KUBERNETES):
        if name in module.packages:
            program = str(ensure_built(module) / name)
            os.execv(program, [program, *sys.argv[2:]])  # noqa: S606, this is all it is for
    sys.exit(f"{name!r} is none of {', '.join([*HELM.packages, *KUBERNETES.packages])}")


if __name__ == "__main__":
    try:
        main()
    except BuildError as failure:
        sys.exit(str(failure))
