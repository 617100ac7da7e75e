"""Parts of the commands that can be tried alone."""
