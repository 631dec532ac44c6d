"""Writes the generated parts of the Markdown files and draws the picture of a session.

`make docs` writes, `make lint` checks that nothing would change. The package is for development only and is
not in the wheel.
"""
