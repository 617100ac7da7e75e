"""What the benchmarks compare with is tested here."""
