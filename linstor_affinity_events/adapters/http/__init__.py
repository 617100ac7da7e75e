"""The service's own HTTP endpoints."""
