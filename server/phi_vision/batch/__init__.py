"""Many items, a few servers, one durable queue: what `phi-vision batch` and the Batch API run on."""
