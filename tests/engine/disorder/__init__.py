"""Instances of the engine on one pretended cluster, where anything befalls them at any moment."""
