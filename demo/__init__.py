"""`make demo`: the main job, played with real processes and sockets; `make sandbox`: the same
parts left running for a person.
"""
