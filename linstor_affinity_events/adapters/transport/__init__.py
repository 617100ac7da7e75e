"""What the clients of LINSTOR and Kubernetes share: bounded response bodies, and sockets."""
