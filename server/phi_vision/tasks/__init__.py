"""Task presets, and requests with their task resolved."""
