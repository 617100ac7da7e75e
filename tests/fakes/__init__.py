"""Doubles that hold state and can be broken on demand."""
