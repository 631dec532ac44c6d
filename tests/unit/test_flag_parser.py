"""vLLM's parser of engine flags, as phi-vision uses it."""

from __future__ import annotations

import pytest
from phi_vision.errors import UsageError
from phi_vision.serving.vllm_compat.flag_parser import vllm_parser


def test_a_log_level_is_taken_in_any_case() -> None:
    parser = vllm_parser()
    for given in (["--log-level", "debug"], ["--log-level=DEBUG"]):
        assert parser.parse_args(["model", *given]).log_level == "DEBUG"


@pytest.mark.parametrize("argument", ["--frobnicate", "--api-ke=x", "--max-num-s=4", "--max-num-seqs=x"])
def test_what_vllm_does_not_take_is_one_line(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a shortened `--api-key` the server would be open."""
    with pytest.raises(UsageError, match=argument.partition("=")[0]):
        vllm_parser().parse_args(["model", argument])
    assert capsys.readouterr().err == ""
