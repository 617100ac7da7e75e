"""Puts the parts together for each command; what a command prints and how it ends is the cli's."""
