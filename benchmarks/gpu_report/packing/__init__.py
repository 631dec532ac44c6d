"""What a GPU machine without a network needs for `make gpu-report`, packed elsewhere: `make gpu-pack`."""
