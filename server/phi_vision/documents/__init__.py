"""Documents: pages in, text with what is known about it out. Pure functions; `serving` asks the engine."""
