"""The real etcd, kube-apiserver and kube-controller-manager: built from source, run for tests."""
