"""The crops policy, without an engine."""

import pytest
from phi_vision.model.crops import CropPolicy, Detail

PHOTO = (1920, 1080)
THUMBNAIL = (336, 336)


@pytest.mark.parametrize(
    ("sizes", "details", "expected"),
    [
        ([PHOTO], [None], [16]),
        ([PHOTO], ["auto"], [16]),
        ([PHOTO], ["low"], [1]),
        ([PHOTO, PHOTO], [None, None], [4, 4]),
        ([PHOTO, PHOTO], ["high", "low"], [16, 1]),
        ([], [], []),
    ],
)
def test_fixed(sizes: list[tuple[int, int]], details: list[Detail | None], expected: list[int]) -> None:
    assert CropPolicy().num_crops(sizes, details) == expected


def test_adaptive_spares_small_pictures_only() -> None:
    policy = CropPolicy(adaptive=True)
    assert policy.num_crops([THUMBNAIL], [None]) == [1]
    assert policy.num_crops([(1344, 1344)], [None]) == [16]
    assert policy.num_crops([THUMBNAIL, PHOTO], ["high", None]) == [1, 4]


def test_high_is_the_larger_of_both_settings() -> None:
    assert CropPolicy(single=2, multi=8).num_crops([PHOTO], ["high"]) == [8]
