"""All network I/O: one module per peer and concern. LINSTOR's and Kubernetes' modules do not import
each other. `Any` is used only here, where JSON is decoded.
"""
