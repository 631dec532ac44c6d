"""OpenAI's Batch API: a file of requests, run in the server while its clients leave it room."""
