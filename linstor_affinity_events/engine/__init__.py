"""When and in which order things are done, through ports only: no peer is known here by name."""
