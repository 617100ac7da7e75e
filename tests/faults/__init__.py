"""What goes wrong around the service while volumes move, and that it comes right by itself.

Each test breaks one thing for a while, on the fake Kubernetes and, where its behaviour counts,
on the real one. Before, during and after that volumes move in LINSTOR. Then everything has to be
as it should be, in the same instance that had the fault: see fleet.py.
"""
