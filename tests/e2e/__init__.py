"""The service as a process, against LINSTOR's protocol and a fake or real Kubernetes."""
