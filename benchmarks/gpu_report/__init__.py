"""What this model does on the GPU of this machine, in one command: `make gpu-report`."""
