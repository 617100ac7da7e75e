"""The only code on a wire: one module per peer and concern, LINSTOR's and Kubernetes' unaware of
each other. `Any` lives here and nowhere else, where JSON comes in.
"""
