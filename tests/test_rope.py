"""LongRoPE per request: the served engine against the float32 reference, and modes kept apart."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from phi_vision.rope_mode import HEADER, SHORT_WINDOW
from pictures import image_part, reference_picture, user
from PIL import Image
from random_weights import write_random_checkpoint
from serving import Server, running_server
from text_reference import Factors, TextReference

ANSWER_TOKENS = 16
SHORT_PROMPTS = (50, 3000)
LONG_PROMPTS = (4090, 5000, 9000)  # with an answer of 16 the first passes 4096
LOGPROB_TOLERANCE = 1e-4  # float32, in another order of summation
MODES_DIFFER = 0.1  # log-probabilities of the two modes, at least once in an answer

# float32 to compare, and steps of 2048 tokens so that prompts come in chunks.
FLAGS = (
    *("--dtype", "float32", "--max-num-batched-tokens", "2048"),
    *("--served-model-name", "phi-3.5-vision", "--enable-prompt-tokens-details"),
)
KV_BLOCK_TOKENS = 128
KV_BLOCKS = 176  # one is vLLM's own; the lengths above fit together, six growing requests do not


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
    assert (other[range(count), answer.token_ids] - best.values).abs().max() > MODES_DIFFER


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: a trained model answers alike with either factors, which is what they are for."""
    return write_random_checkpoint(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> TextReference:
    return TextReference(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rope", "max_model_len", "lengths"), [("short", 4096, SHORT_PROMPTS), ("long", 16384, LONG_PROMPTS)]
)
def test_stock_vllm_equals_the_same_reference(
    tmp_path: Path,
    checkpoint: Path,
    reference: TextReference,
    rope: Factors,
    max_model_len: int,
    lengths: Sequence[int],
) -> None:
    """In the fixed modes the rotary module and the routes are vLLM's, untouched."""
    flags = (*FLAGS, "--model", str(checkpoint), "--max-model-len", str(max_model_len), "--rope", rope)
    with running_server(tmp_path / "log.txt", *flags) as server:
        for length in lengths:
            answer = complete(server, prompt_of(length))
            assert answer.mode is None
            check(reference, prompt_of(length), answer, rope)


@pytest.fixture(scope="module")
def per_request(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    flags = (*FLAGS, "--model", str(checkpoint), "--max-model-len", "16384")
    flags += ("--num-gpu-blocks-override", str(KV_BLOCKS))
    flags += ("--hf-overrides", '{"initializer_range": 0.02}')  # a user's own does not undo ours
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


@pytest.mark.slow
def test_modes_share_a_batch(per_request: Server, reference: TextReference) -> None:
    lengths = SHORT_PROMPTS + LONG_PROMPTS
    prompts = [prompt_of(length, seed=1) for length in lengths]
    streams = itertools.cycle([False, True])
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda p, s: complete(per_request, p, tokens=64, stream=s), prompts, streams))
    for length, prompt, answer in zip(lengths, prompts, answers, strict=True):
        factors: Factors = "short" if length in SHORT_PROMPTS else "long"
        assert answer.mode == factors
        check(reference, prompt, answer, factors)


@pytest.mark.slow
@pytest.mark.parametrize("last", ["short", "long"])
def test_preempted_requests_keep_their_mode(
    per_request: Server, reference: TextReference, last: Factors
) -> None:
    """Six requests that grow by four blocks each, where the cache has eleven to spare.

    vLLM then drops the one that came last and computes it anew, with its answer so far as prompt. Eleven, so
    that the last is let in even when the first ones have said more than a hundred tokens by then.
    """
    blocks = [44, 44, 26, 26, 19, 5]
    assert sum(blocks) == KV_BLOCKS - 12
    if last == "long":
        blocks.reverse()
    lengths = [KV_BLOCK_TOKENS * n - 120 for n in blocks]
    prompts = [prompt_of(length, seed=2) for length in lengths]
    prompts = [[1, 260 + i, *prompt[2:]] for i, prompt in enumerate(prompts)]  # none shares a block
    before = preemptions(per_request)
    with ThreadPoolExecutor(len(prompts)) as pool:
        waiting = []
        for prompt in prompts:
            waiting.append(pool.submit(complete, per_request, prompt, tokens=600))
            time.sleep(0.01)  # in this order
        answers = [each.result() for each in waiting]
    assert preemptions(per_request) > before
    for length, prompt, answer in zip(lengths, prompts, answers, strict=True):
        check(reference, prompt, answer, "short" if length < 4000 else "long")


def preemptions(server: Server) -> float:
    metrics = httpx.get(f"{server.url}/metrics").text
    (count,) = re.findall(r"^vllm:num_preemptions_total\{.*\} (\S+)$", metrics, re.MULTILINE)
    return float(count)


def look(server: Server, picture: Image.Image, mode: str, salt: str | None = None) -> list[tuple[str, float]]:
    """The first tokens of an answer about a picture of 2,509 tokens, with their log-probabilities."""
    stream = server.client().chat.completions.with_raw_response.create(
        model="phi-3.5-vision",
        messages=[user(image_part(picture), "What is this?")],
        max_tokens={"short": ANSWER_TOKENS, "long": 2000}[mode],
        temperature=0,
        logprobs=True,
        stream=True,
        extra_body={"ignore_eos": True} | ({"cache_salt": salt} if salt else {}),
    )
    assert stream.headers[HEADER] == mode
    tokens = (part for chunk in stream.parse() for part in (chunk.choices[0].logprobs or NOTHING).content)
    answer = [(part.token, part.logprob) for part in itertools.islice(tokens, ANSWER_TOKENS)]
    stream.http_response.close()  # the long one would go on
    return answer


NOTHING = SimpleNamespace(content=())


@pytest.mark.slow
@pytest.mark.parametrize("order", [("short", "long"), ("long", "short")], ids="-then-".join)
def test_a_picture_in_one_mode_leaves_nothing_to_the_other(
    per_request: Server, order: tuple[str, str]
) -> None:
    picture = reference_picture(336, 336, seed=len(order[0]))
    answers = {mode: look(per_request, picture, mode) for mode in order}
    again = {mode: look(per_request, picture, mode) for mode in order}
    fresh = {mode: look(per_request, picture, mode, salt=f"{order}{mode}") for mode in order}
    for mode in order:
        assert len(answers[mode]) == ANSWER_TOKENS
        for others in (again, fresh):
            assert [token for token, _ in others[mode]] == [token for token, _ in answers[mode]]
            expected = [logprob for _, logprob in answers[mode]]
            assert [logprob for _, logprob in others[mode]] == pytest.approx(expected, abs=LOGPROB_TOLERANCE)
    differences = [abs(a - b) for (_, a), (_, b) in zip(answers["short"], answers["long"], strict=True)]
    assert max(differences) > MODES_DIFFER


def body_for(path: str, text: str, tokens: int | None) -> dict[str, Any]:
    message = {"messages": [{"role": "user", "content": text}]}
    content, limit = {
        "/v1/chat/completions": (message, "max_tokens"),
        "/v1/messages": (message, "max_tokens"),
        "/v1/completions": ({"prompt": text}, "max_tokens"),
        "/v1/responses": ({"input": text}, "max_output_tokens"),
    }[path]
    return {"model": "phi-3.5-vision", **content} | ({limit: tokens} if tokens else {})


ROUTES = ("/v1/chat/completions", "/v1/messages", "/v1/completions", "/v1/responses")


def mode_of(server: Server, path: str, body: dict[str, Any], stream: bool = False) -> str | None:
    with httpx.stream("POST", server.url + path, json=body | {"stream": stream}, timeout=300) as response:
        assert response.status_code == 200, response.read()
        assert next(response.iter_raw())
        return response.headers.get(HEADER)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ROUTES)
def test_every_route_obeys(per_request: Server, path: str, stream: bool) -> None:
    assert mode_of(per_request, path, body_for(path, "x" * 4000, 4), stream) == "short"
    assert mode_of(per_request, path, body_for(path, "x" * 4000, 200), stream) == "long"
    assert mode_of(per_request, path, body_for(path, "x" * 5000, 4), stream) == "long"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_no_length_asked_for_means_short_where_there_is_room(per_request: Server, path: str) -> None:
    assert mode_of(per_request, path, body_for(path, "x" * 3000, None), stream=True) == "short"
    assert mode_of(per_request, path, body_for(path, "x" * 3800, None), stream=True) == "long"


@pytest.mark.slow
def test_a_length_nobody_asked_for_ends_with_the_window(per_request: Server) -> None:
    answer = per_request.client().chat.completions.create(
        model="phi-3.5-vision",
        messages=[user("x" * 3500)],
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.total_tokens == SHORT_WINDOW


@pytest.mark.slow
def test_a_presets_length_yields_to_the_window_and_a_clients_does_not(per_request: Server) -> None:
    body = {"model": "phi-3.5-vision:ocr", "messages": [user(image_part(reference_picture(336, 336, 1)))]}
    path = "/v1/chat/completions"
    assert mode_of(per_request, path, body, stream=True) == "short"  # the preset says 2,048
    assert mode_of(per_request, path, body | {"max_tokens": 2048}, stream=True) == "long"


@pytest.mark.slow
def test_prompts_of_one_request_are_decided_one_by_one(per_request: Server) -> None:
    body = {"model": "phi-3.5-vision", "prompt": ["x" * 50, "x" * 5000], "max_tokens": 4}
    assert mode_of(per_request, "/v1/completions", body) == "short,long"


@pytest.mark.slow
def test_errors_name_no_mode(per_request: Server) -> None:
    response = httpx.post(f"{per_request.url}/v1/completions", json=body_for("/v1/completions", "x", -1))
    assert response.status_code == 400
    assert HEADER not in response.headers
