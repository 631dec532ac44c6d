"""What wraps or overrides vLLM's own code."""
