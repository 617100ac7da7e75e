"""`python -m linstor_affinity_events` is the command `linstor-affinity-events`."""

from linstor_affinity_events.cli import main

if __name__ == "__main__":
    main()
