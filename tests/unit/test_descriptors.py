"""The limit of open files."""

from __future__ import annotations

import resource

from phi_vision.serving import descriptors


def test_the_limit_of_descriptors_is_raised_as_far_as_allowed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        free = descriptors.count_free()
        assert 0 < free < 256
        descriptors.raise_limit()
        raised = min(hard, 65_535) if hard != resource.RLIM_INFINITY else 65_535
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (raised, hard)
        assert descriptors.count_free() == free + raised - 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
