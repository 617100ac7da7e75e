"""`make demo` runs the main scenario with real processes and sockets.

`make sandbox` leaves the same parts running, to try things out.
"""
