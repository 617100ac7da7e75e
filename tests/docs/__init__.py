"""The commands in the documentation are run, and the output that it shows is real."""
