"""phi-vision: Phi-3.5-vision served by vLLM behind an OpenAI-compatible API."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # takes as long to import as the rest of `--help`

    return version("phi-vision")
