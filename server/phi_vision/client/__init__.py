"""What talks to a server: pictures in, a bounded answer out. Needs neither vLLM nor a GPU."""
