"""Programs of Debian's packages that tests run."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Where it is.

    Where it is missing, the test is skipped; with `REQUIRE_PACKAGE` in the environment, as in
    `REQUIRE_PROMETHEUS`, it fails.
    """
    found = shutil.which(name)
    if found is None:
        absent = pytest.fail if os.environ.get(f"REQUIRE_{package.upper()}") else pytest.skip
        absent(f"{name} is not installed (`apt-get install {package}`)")
    return found
