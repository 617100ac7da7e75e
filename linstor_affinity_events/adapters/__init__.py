"""All network I/O: one package per peer, and what they share. LINSTOR's and Kubernetes' packages do
not import each other. `Any` is used only here, where JSON is decoded.
"""
