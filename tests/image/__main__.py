"""Builds the image as the tests do and prints what it is, as JSON; `make release-dry-run` asks."""

import json
import sys

from tests.image.engine import built
from tests.real_parts.debian import TOP, CannotBeHad, ensure_tree

if __name__ == "__main__":
    try:
        tree = ensure_tree()
    except CannotBeHad as reason:
        sys.exit(str(reason))
    with built(TOP, tree) as image:
        reported = {
            "size": image.size,
            "user": image.config["User"],
            "labels": image.config["Labels"],
        }
    sys.stdout.write(f"{json.dumps(reported)}\n")
