"""One question a module: `python -m benchmarks.studies.NAME --help`, in the environment of the server."""
