"""LongRoPE per request: the served engine against the float32 reference, and modes kept apart."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from phi_vision.model.rope_mode import HEADER
from PIL import Image
from torch import Tensor

from tests.support.pictures import image_part, reference_picture, user
from tests.support.random_weights import write_random_checkpoint
from tests.support.serving import Server, running_server
from tests.support.text_reference import WINDOW, Factors, TextReference

ANSWER_TOKENS = 16
SHORT_PROMPTS = (50, 3000)
LONG_PROMPTS = (4096, 5000, 9000)
GROWING_PROMPTS = (4000, 4095)  # their answers pass 4,096 tokens by `GROWN_TOKENS`
GROWN_TOKENS = 40
LOGPROB_TOLERANCE = 1e-4  # float32, in another order of summation
MODES_DIFFER = 0.1  # log-probabilities of the two modes, at least once in an answer

# float32 to compare, and steps of 2048 tokens so that prompts come in chunks.
FLAGS = (
    *("--dtype", "float32", "--max-num-batched-tokens", "2048"),
    *("--served-model-name", "phi-3.5-vision", "--enable-prompt-tokens-details"),
)
BLOCK_TOKENS = 128
BLOCKS = 176  # one is vLLM's own


@dataclass(frozen=True)
class Answer:
    """Greedy tokens with their log-probabilities, and what the server says of the request."""

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    mode: str | None  # the header
    cached_tokens: int


PRINTABLE = list(range(260, 350))  # tokens


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """`<s>` and printable characters."""
    draw = random.Random(1000 * length + seed)
    return [1, *draw.choices(PRINTABLE, k=length - 1)]


def complete(
    server: Server, prompt: list[int], *, tokens: int = ANSWER_TOKENS, stream: bool = False, **more: Any
) -> Answer:
    """`/v1/completions` on token ids, greedy where nothing else is said."""
    request: dict[str, Any] = {
        "model": "phi-3.5-vision",
        "prompt": prompt,
        "max_tokens": tokens,
        "logprobs": 1,
        "extra_body": {"return_tokens_as_token_ids": True, "ignore_eos": True, **more},
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
    details = chunks[-1].usage.prompt_tokens_details
    cached_tokens = details.cached_tokens if details and details.cached_tokens else 0
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return answer_of(choices, raw.headers.get(HEADER), cached_tokens)


def answer_of(choices: list[Any], mode: str | None = None, cached_tokens: int = 0) -> Answer:
    """The pieces of one choice put together."""
    parts = [choice.logprobs for choice in choices if choice.logprobs]
    return Answer(
        [int(token.removeprefix("token_id:")) for part in parts for token in part.tokens],
        [logprob for part in parts for logprob in part.token_logprobs],
        "".join(choice.text for choice in choices),
        choices[-1].finish_reason,
        mode,
        cached_tokens,
    )


def check(reference: TextReference, prompt: list[int], answer: Answer, *, greedy: bool = True) -> None:
    """The answer is the one of the original's rule, and could not have come from other factors."""
    expected, factors = reference.answer_logprobs(prompt, answer.token_ids)
    if greedy:  # up to ties
        said = expected[range(len(factors)), answer.token_ids]
        assert (expected.max(-1).values - said).max() < LOGPROB_TOLERANCE
    check_steps(reference, prompt, answer, expected, factors)


def check_steps(
    reference: TextReference, prompt: list[int], answer: Answer, expected: Tensor, factors: list[Factors]
) -> None:
    count = len(answer.token_ids)
    said = expected[range(count), answer.token_ids]
    assert answer.logprobs == pytest.approx(said.tolist(), abs=LOGPROB_TOLERANCE)
    for mode, other in (("short", "long"), ("long", "short")):
        steps = [i for i in range(count) if factors[i] == mode]
        if len(steps) >= ANSWER_TOKENS // 2:
            wrong = reference.logprobs(prompt + answer.token_ids[:-1], count, cast(Factors, other))
            differences = wrong[range(count), answer.token_ids] - said
            assert differences[steps].abs().max() > MODES_DIFFER


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: a trained model answers alike with either factors, which is what they are for."""
    return write_random_checkpoint(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> TextReference:
    return TextReference(checkpoint)


@pytest.mark.slow
@pytest.mark.full
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
            sequence = prompt_of(length) + answer.token_ids[:-1]
            expected = reference.logprobs(sequence, ANSWER_TOKENS, rope)
            assert answer.token_ids == expected.argmax(-1).tolist()
            check_steps(reference, prompt_of(length), answer, expected, [rope] * ANSWER_TOKENS)


@pytest.fixture(scope="module")
def per_request(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    flags = [*FLAGS, "--model", str(checkpoint), "--max-model-len", "16384"]
    flags += ("--num-gpu-blocks-override", str(BLOCKS), "--block-size", str(BLOCK_TOKENS))
    flags += ("--hf-overrides", '{"initializer_range": 0.02}')  # a user's own does not undo ours
    with running_server(tmp_path_factory.mktemp("rope") / "log.txt", "--rope", "per-request", *flags) as s:
        yield s


def length_of_answer(prompt: int) -> int:
    return WINDOW - prompt + GROWN_TOKENS if prompt in GROWING_PROMPTS else ANSWER_TOKENS


LENGTHS = SHORT_PROMPTS + GROWING_PROMPTS + LONG_PROMPTS
AROUND_THE_WINDOW = (50, 4095, 4096)  # the others in `make test-all`


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "length",
    [pytest.param(n, marks=[] if n in AROUND_THE_WINDOW else pytest.mark.full) for n in LENGTHS],
)
def test_equals_the_reference(
    per_request: Server, reference: TextReference, length: int, stream: bool
) -> None:
    """Streamed, it comes second and so from the prefix cache."""
    prompt = prompt_of(length)
    answer = complete(per_request, prompt, tokens=length_of_answer(length), stream=stream)
    if length in GROWING_PROMPTS:
        assert answer.mode == ("short" if stream else "short,long")
    else:
        assert answer.mode == ("short" if length in SHORT_PROMPTS else "long")
    assert (answer.cached_tokens > 0) == (stream and length > BLOCK_TOKENS)
    check(reference, prompt, answer)


@pytest.mark.slow
def test_modes_share_a_batch(per_request: Server, reference: TextReference) -> None:
    prompts = [prompt_of(n, seed=1) for n in (50, 4080, 5000)]
    streams = itertools.cycle([False, True])
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda p, s: complete(per_request, p, tokens=32, stream=s), prompts, streams))
    for prompt, answer in zip(prompts, answers, strict=True):
        check(reference, prompt, answer)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("last", ["short", "long"])
def test_preempted_requests_keep_their_mode(
    per_request: Server, reference: TextReference, last: Factors
) -> None:
    """Six sequences that grow by four blocks or more each, where the cache has eleven to spare.

    They come in one request, so that all are let in before any has grown by two blocks; none ends before all
    have grown. vLLM must drop the one that came last and compute it anew, its answer so far as prompt.
    """
    blocks = [44, 44, 31, 26, 14, 5]  # the third outgrows the window
    assert sum(blocks) == BLOCKS - 12
    if last == "long":
        blocks.reverse()
    prompts = [prompt_of(BLOCK_TOKENS * n - 120, seed=2) for n in blocks]
    prompts = [[1, 260 + i, *prompt[2:]] for i, prompt in enumerate(prompts)]  # none shares a block
    before = preemptions(per_request)
    answers = per_request.client().completions.create(
        model="phi-3.5-vision",
        prompt=prompts,
        max_tokens=600,
        logprobs=1,
        extra_body={"return_tokens_as_token_ids": True, "ignore_eos": True},
    )
    assert preemptions(per_request) > before + 1  # the one is due to the window
    for choice in answers.choices:
        check(reference, prompts[choice.index], answer_of([choice]))


@pytest.mark.slow
@pytest.mark.full
def test_choices_and_seeds_cross_the_window(per_request: Server, reference: TextReference) -> None:
    prompt = prompt_of(4060, seed=3)

    def sample() -> list[Answer]:
        answer = per_request.client().completions.create(
            model="phi-3.5-vision",
            prompt=prompt,
            n=2,
            max_tokens=80,
            logprobs=1,
            temperature=1,
            seed=7,
            extra_body={"return_tokens_as_token_ids": True, "ignore_eos": True},
        )
        assert answer.usage is not None and answer.usage.completion_tokens == 160
        return [answer_of([choice]) for choice in answer.choices]

    first, second = sample(), sample()
    assert first[0].token_ids != first[1].token_ids
    for one, other in zip(first, second, strict=True):
        assert one.token_ids == other.token_ids
        check(reference, prompt, one, greedy=False)


@pytest.mark.slow
@pytest.mark.full
def test_penalties_count_the_answer_across_the_window(per_request: Server, reference: TextReference) -> None:
    prompt = prompt_of(4060, seed=4)
    penalties: dict[str, Any] = {"presence_penalty": 1.5, "frequency_penalty": 0.5}
    answer = complete(per_request, prompt, tokens=80, **penalties)
    check(reference, prompt, answer, greedy=False)
    logprobs, factors = reference.answer_logprobs(prompt, answer.token_ids)
    said: Counter[int] = Counter()
    held_back: list[Factors] = []  # steps that would have repeated something
    for step, token, mode in zip(logprobs, answer.token_ids, factors, strict=True):
        if int(step.argmax()) in said:
            held_back.append(mode)
        for earlier, times in said.items():
            step[earlier] -= 1.5 + 0.5 * times
        assert int(step.argmax()) == token
        said[token] += 1
    assert "long" in held_back


@pytest.mark.slow
def test_a_stop_string_lies_over_the_window(per_request: Server) -> None:
    prompt = prompt_of(4080, seed=5)
    readable: dict[str, Any] = {"allowed_token_ids": PRINTABLE}
    whole = complete(per_request, prompt, tokens=40, **readable)
    lengths = [len(complete(per_request, prompt, tokens=n, **readable).text) for n in (15, 20)]
    stop = whole.text[slice(*lengths)]  # of the tokens 4,095 to 4,100 of the sequence
    assert len(stop) >= 3
    for stream in (False, True):
        stopped = complete(per_request, prompt, tokens=40, stream=stream, stop=[stop], **readable)
        assert stopped.finish_reason == "stop"
        assert stopped.text == whole.text[: whole.text.index(stop)]


@pytest.mark.slow
@pytest.mark.full
def test_what_vllm_keeps_of_a_request_crosses_the_window(
    per_request: Server, reference: TextReference
) -> None:
    """A grammar, the least length, loops: each would go wrong if it began anew with the long factors."""
    prompt = prompt_of(4070, seed=6)
    spelled = complete(
        per_request, prompt, tokens=80, structured_outputs={"regex": "[ab]{60}"}, ignore_eos=False
    )
    assert re.fullmatch("[ab]{60}", spelled.text)
    logprobs, _ = reference.answer_logprobs(prompt, spelled.token_ids)
    letters = sorted(set(spelled.token_ids[:60]))  # some letters can be spelled by two tokens
    assert len(letters) >= 2
    best = logprobs[:60, letters].max(-1).values
    assert (best - logprobs[range(60), spelled.token_ids[:60]]).max() < LOGPROB_TOLERANCE

    end = 708
    forced: dict[str, Any] = {"logit_bias": {str(end): 100}, "stop_token_ids": [end]}
    held = complete(per_request, prompt, tokens=200, min_tokens=60, **forced)
    assert (held.finish_reason, len(held.token_ids)) == ("stop", 61)

    loop = {"max_pattern_size": 1, "min_pattern_size": 1, "min_count": 50}
    looped = complete(per_request, prompt, tokens=200, logit_bias={"300": 100}, repetition_detection=loop)
    assert (looped.finish_reason, len(looped.token_ids)) == ("repetition", 50)


@pytest.mark.slow
@pytest.mark.full
def test_a_client_leaves_behind_the_window(per_request: Server, reference: TextReference) -> None:
    stream = per_request.client().completions.create(
        model="phi-3.5-vision", prompt=prompt_of(4080, seed=7), max_tokens=8000, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    for _ in itertools.islice(stream, 60):
        pass
    stream.close()
    while gauge(per_request, "num_requests_running"):
        time.sleep(0.1)
    prompt = prompt_of(4080, seed=7)
    check(reference, prompt, complete(per_request, prompt, tokens=40))


def gauge(server: Server, name: str) -> float:
    metrics = httpx.get(f"{server.url}/metrics").text
    (value,) = re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", metrics, re.MULTILINE)
    return float(value)


def preemptions(server: Server) -> float:
    return gauge(server, "num_preemptions_total")


def look(server: Server, picture: Image.Image, mode: str, salt: str | None = None) -> list[tuple[str, float]]:
    """The first tokens of an answer about a picture of 2,509 tokens, with their log-probabilities."""
    question = {"short": "What is this?", "long": "What is this?" + "x" * 2000}[mode]
    stream = server.client().chat.completions.with_raw_response.create(
        model="phi-3.5-vision",
        messages=[user(image_part(picture), question)],
        max_tokens=ANSWER_TOKENS,
        logprobs=True,
        stream=True,
        extra_body={"ignore_eos": True} | ({"cache_salt": salt} if salt else {}),
    )
    assert stream.headers[HEADER] == mode
    logprobs = [chunk.choices[0].logprobs for chunk in stream.parse()]
    return [(part.token, part.logprob) for each in logprobs if each for part in each.content or ()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [("short", "long"), pytest.param(("long", "short"), marks=pytest.mark.full)],
    ids=["short-then-long", "long-then-short"],
)
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


@pytest.mark.slow
def test_an_answer_about_a_picture_grows_past_the_window(per_request: Server) -> None:
    """It then says what a request says that has all of it as its prompt, and so is long from the start.

    The answer is spelled in letters that the tokenizer never joins, behind the space that begins a text,
    so that it can be handed in as text.
    """
    question = user(image_part(reference_picture(336, 336, seed=5)), "x" * 1540)
    letters, known = 60, 45
    not_as_bytes = {str(3 + byte): -100 for byte in b" qxz"}  # the same characters, spelled otherwise

    def spell(pattern: str, *more: Any, **fields: Any) -> tuple[str, list[float], int, str | None]:
        raw = per_request.client().chat.completions.with_raw_response.create(
            model="phi-3.5-vision",
            messages=[question, *more],
            max_tokens=letters + 1,
            logprobs=True,
            logit_bias=not_as_bytes,
            extra_body={"structured_outputs": {"regex": pattern}, **fields},
        )
        answer: Any = raw.parse()
        said = answer.choices[0].logprobs.content[: letters + 1]
        text = answer.choices[0].message.content.strip()
        return text, [part.logprob for part in said], answer.usage.prompt_tokens, raw.headers[HEADER]

    text, logprobs, tokens, mode = spell(f" [qxz]{{{letters}}}")
    assert tokens < 4096 < tokens + known and len(text) == letters
    assert mode == "short,long"
    so_far = {"role": "assistant", "content": text[:known]}
    going_on = {"continue_final_message": True, "add_generation_prompt": False}
    rest, expected, all_tokens, mode = spell(f"[qxz]{{{letters - known}}}", so_far, **going_on)
    assert all_tokens == tokens + 1 + known
    assert mode == "long"
    assert rest == text[known:]
    assert logprobs[1 + known :] == pytest.approx(expected[: letters - known], abs=LOGPROB_TOLERANCE)
