"""Other programs that serve this model, behind the one interface that the benchmark measures."""
