"""LongRoPE per request: the served engine against the float32 reference, and modes kept apart."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from pictures import image_part, reference_picture, user
from serving import Server, running_server
from text_reference import Factors, TextReference

from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.model.demo import demo_checkpoint
from phi_vision.rope_mode import HEADER, RopePlan, cache_salt, plan

ANSWER_TOKENS = 16
SHORT_PROMPTS = (50, 3000)
LONG_PROMPTS = (4090, 5000, 9000)  # with an answer of 16 the first passes 4096
LOGPROB_TOLERANCE = 1e-3  # float32, two orders of summation; the modes differ by 100 times as much

# float32 to compare; steps of 2048 tokens so that prompts come in chunks; so few KV blocks that
# three long requests cannot all stay.
FLAGS = (
    *("--model", "demo", "--dtype", "float32", "--max-num-batched-tokens", "2048"),
    "--enable-prompt-tokens-details",
)
KV_BLOCKS = 140  # of 128 tokens


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "asked", "expected"),
    [
        (50, 100, True, RopePlan("short", 100)),
        (4000, 96, True, RopePlan("short", 96)),
        (4000, 97, True, RopePlan("long", 97)),
        (4096, 1, True, RopePlan("long", 1)),
        (9000, 10, True, RopePlan("long", 10)),
        # A length that nobody asked for ends with the window...
        (50, 131022, False, RopePlan("short", 4046)),
        (2509, 2048, False, RopePlan("short", 1587)),
        # ...where that leaves enough of it.
        (3584, 2048, False, RopePlan("short", 512)),
        (3585, 2048, False, RopePlan("long", 2048)),
        (3900, 128, False, RopePlan("short", 128)),
        (4090, 128, False, RopePlan("long", 128)),
    ],
)
def test_plan(prompt: int, max_tokens: int, asked: bool, expected: RopePlan) -> None:
    assert plan(prompt, max_tokens, asked=asked) == expected


def test_plan_leaves_room_for_the_shortest_answer_asked_for() -> None:
    assert plan(3000, 9000, asked=False, min_tokens=1096) == RopePlan("short", 1096)
    assert plan(3000, 9000, asked=False, min_tokens=1097) == RopePlan("long", 9000)


def test_salts_of_two_modes_never_meet() -> None:
    own = [None, "a", "short:", "rope-long:", "rope-short:a"]
    salts = [cache_salt(mode, salt) for mode in ("short", "long") for salt in own]
    assert len(set(salts)) == len(salts)


def test_fixed_modes_are_for_their_lengths() -> None:
    assert not ServeConfig(rope="short", max_model_len=4096).chooses_rope
    assert not ServeConfig(rope="per-request", max_model_len=4096).chooses_rope
    assert ServeConfig(rope="per-request", max_model_len=4097).chooses_rope
    with pytest.raises(UsageError, match="--rope short needs"):
        ServeConfig(rope="short", max_model_len=4097)
    with pytest.raises(UsageError, match="--rope long needs"):
        ServeConfig(rope="long", max_model_len=4096)


@dataclass(frozen=True)
class Answer:
    """Greedy tokens with their log-probabilities, and what the server says of the request."""

    token_ids: list[int]
    logprobs: list[float]
    mode: str | None  # the header
    cached_tokens: int


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """`<s>` and printable characters."""
    draw = random.Random(1000 * length + seed)
    return [1, *(draw.randrange(260, 350) for _ in range(length - 1))]


def complete(
    server: Server, prompt: list[int], *, tokens: int = ANSWER_TOKENS, stream: bool = False
) -> Answer:
    """`/v1/completions` on token ids."""
    request: dict[str, Any] = {
        "model": "phi-3.5-vision",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": 1,
        "extra_body": {"return_tokens_as_token_ids": True, "ignore_eos": True},
    }
    completions = server.client().completions
    if stream:
        raw = completions.with_raw_response.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(raw.parse())
    else:
        raw = completions.with_raw_response.create(**request)
        chunks = [raw.parse()]
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices and chunk.choices[0].logprobs]
    details = chunks[-1].usage.prompt_tokens_details
    return Answer(
        [int(token.removeprefix("token_id:")) for part in parts for token in part.tokens],
        [logprob for part in parts for logprob in part.token_logprobs],
        raw.headers.get(HEADER),
        details.cached_tokens if details and details.cached_tokens else 0,
    )


def check(reference: TextReference, prompt: list[int], answer: Answer, factors: Factors) -> None:
    """The answer is the reference's greedy one, and could not have come from the other factors."""
    count = len(answer.token_ids)
    sequence = prompt + answer.token_ids[:-1]
    expected = reference.logprobs(sequence, count, factors)
    best = expected.max(-1)
    assert answer.token_ids == best.indices.tolist()
    assert answer.logprobs == pytest.approx(best.values.tolist(), abs=LOGPROB_TOLERANCE)
    other = reference.logprobs(sequence, count, "long" if factors == "short" else "short")
    other_values = other[range(count), answer.token_ids]
    assert (other_values - best.values).abs().max() > 100 * LOGPROB_TOLERANCE


@pytest.fixture(scope="module")
def reference() -> TextReference:
    return TextReference(demo_checkpoint())


@pytest.fixture(scope="module")
def per_request(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = (*FLAGS, "--max-model-len", "16384", "--num-gpu-blocks-override", str(KV_BLOCKS))
    with running_server(tmp_path_factory.mktemp("rope") / "log.txt", "--rope", "per-request", *flags) as s:
        yield s


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("length", SHORT_PROMPTS + LONG_PROMPTS)
def test_equals_the_reference(
    per_request: Server, reference: TextReference, length: int, stream: bool
) -> None:
    """Streamed, it comes second and so from the prefix cache."""
    factors: Factors = "short" if length in SHORT_PROMPTS else "long"
    prompt = prompt_of(length)
    answer = complete(per_request, prompt, stream=stream)
    assert answer.mode == factors
    assert (answer.cached_tokens > 0) == (stream and length > 128)
    check(reference, prompt, answer, factors)
