"""The service as a process, against LINSTOR's protocol and a pretended or real Kubernetes."""
