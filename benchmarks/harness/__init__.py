"""What `make bench` runs: servers, load, figures, the page. Works in the environment of AIPerf."""
