"""Measurements, not tests: what is measured here, and on what, is printed with each run."""
