"""The engine on its ports in memory, on a clock that jumps."""
