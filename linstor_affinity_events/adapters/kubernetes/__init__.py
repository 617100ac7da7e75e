"""The only code that speaks with a kube-apiserver."""
