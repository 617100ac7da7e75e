"""Input that somebody means harm with, or that is just broken: for every parser, and end to end."""
