"""The chart, rendered by the real helm and applied to the real API server."""
