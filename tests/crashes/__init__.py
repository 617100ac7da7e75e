"""SIGKILL before and after each single request of the service, and a start after it."""
