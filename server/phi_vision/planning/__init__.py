"""What fits on a device and how the engine is launched. Imports neither torch nor vLLM."""
