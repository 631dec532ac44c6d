"""phi-vision: Phi-3.5-vision served by vLLM behind an OpenAI-compatible API."""
