"""Tests that run against a double and against the real thing, so that the two stay alike."""
