"""What the service itself serves by HTTP."""
