"""What `phi-vision serve` starts on a GPU, resolved by vLLM's CUDA build without one: `make check-cuda`."""
