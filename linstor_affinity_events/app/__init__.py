"""Wires the parts together for each command. Output and exit codes belong to `cli`."""
