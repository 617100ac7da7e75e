"""What the benchmarks compare with is looked at here."""
