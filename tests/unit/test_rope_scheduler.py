"""Sequences that outgrow the short factors: vLLM's own schedulers, with a worker that only keeps books.

For each place of the KV cache the worker notes the token and the factors that its keys were made with, as
the model would choose them. It samples the sequence's length, so that a lost, doubled or misplaced token
shows, and never attends over keys of the other mode or of another sequence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from phi_vision.model.config import Phi3VConfig
from phi_vision.model.rope_mode import RopeMode, mode_from
from phi_vision.model.rope_scheduler import scheduler
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.spec import PHI_3_5_VISION
from transformers import AutoConfig
from vllm import ModelRegistry
from vllm.config import KVTransferConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

WINDOW = PHI_3_5_VISION.short_window  # tokens

BLOCK = 16  # tokens
PLENTY = 4096  # blocks
CHECK_EVERY = 40  # steps; all keys of a sequence are also looked at whenever it starts anew


@pytest.fixture(params=["sync-v1", "async-v1", "async-v2"])
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VllmConfig:
    kind, runner = request.param.split("-")
    made = engine_config()
    # Not before: on a CPU vLLM takes neither asynchronous steps nor the V2 runner.
    monkeypatch.setattr(made.scheduler_config, "async_scheduling", kind == "async")
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", str(int(runner == "v2")))
    assert made.max_concurrent_batches == (2 if kind == "async" else 1)
    assert made.use_v2_model_runner == (runner == "v2")
    return made


@cache
def engine_config(**settings: Any) -> VllmConfig:
    AutoConfig.register(Phi3VConfig.model_type, Phi3VConfig, exist_ok=True)
    ModelRegistry.register_model("Phi3VForCausalLM", "phi_vision.model.phi3v:PhiVisionForCausalLM")
    return EngineArgs(
        model=str(DEMO_FOLDER),
        hf_overrides={"longrope_per_request": True},
        max_model_len=16384,
        max_num_batched_tokens=2048,
        block_size=BLOCK,
        disable_sliding_window=True,
        **settings,
    ).create_engine_config()


@dataclass
class Sequence:
    """What the worker knows of a request."""

    tokens: list[int]
    blocks: list[int]
    mode: RopeMode


def next_token(length: int) -> int:
    return 300 + length % 400


@dataclass
class Engine:
    """A scheduler and its worker, as many steps apart as vLLM has them."""

    config: VllmConfig
    blocks: int = PLENTY
    max_num_seqs: int = 128
    cache: dict[tuple[int, int], tuple[RopeMode, int, int]] = field(default_factory=dict)
    sequences: dict[str, Sequence] = field(default_factory=dict)
    steps: dict[str, list[tuple[int, RopeMode]]] = field(default_factory=dict)  # length, mode
    cached: dict[str, int] = field(default_factory=dict)  # tokens found in the prefix cache at first
    answers: dict[str, Request] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        init_none_hash(sha256)
        self.config.cache_config.num_gpu_blocks = self.blocks
        self.config.scheduler_config.max_num_seqs = self.max_num_seqs
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        self.scheduler = scheduler(
            vllm_config=self.config,
            kv_cache_config=KVCacheConfig(self.blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(self.config),
            block_size=BLOCK,
        )
        self.hasher = get_request_block_hasher(BLOCK, sha256)

    def ask(self, name: str, prompt: int, answer: int, *, first: int = 1, salt: str | None = None) -> Request:
        """Ask for an answer of this length to a prompt of that length; prompts differ in the first token."""
        tokens = [first, *map(next_token, range(1, prompt))]
        params = SamplingParams(max_tokens=answer, ignore_eos=True)
        request = Request(name, tokens, params, None, cache_salt=salt, block_hasher=self.hasher)
        self.scheduler.add_request(request)
        self.answers[name] = request
        self.steps[name] = []
        return request

    def run(self) -> None:
        """Answer everything."""
        in_flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
        while self.scheduler.has_unfinished_requests() or in_flight:
            output = self.scheduler.schedule()
            executed = self.work(output)
            if output.total_num_scheduled_tokens:
                in_flight.append((output, executed))
            if len(in_flight) == self.config.max_concurrent_batches or not output.total_num_scheduled_tokens:
                assert in_flight, "nothing is scheduled and nothing is under way"
                for outputs in self.scheduler.update_from_output(*in_flight.popleft()).values():
                    self.ended += [each.request_id for each in outputs.outputs if each.finished]

    def work(self, output: SchedulerOutput) -> ModelRunnerOutput:
        starts: dict[str, int] = {}
        fresh: set[str] = set()
        for new in output.scheduled_new_reqs:
            tokens = list(new.prefill_token_ids or new.prompt_token_ids)
            self.sequences[new.req_id] = Sequence(tokens, list(new.block_ids[0]), mode_from(len(tokens)))
            starts[new.req_id] = new.num_computed_tokens
            self.cached.setdefault(new.req_id, new.num_computed_tokens)
            fresh.add(new.req_id)
        again = output.scheduled_cached_reqs
        for i, name in enumerate(again.req_ids):
            sequence = self.sequences[name]
            added = again.new_block_ids[i]
            if name in again.resumed_req_ids:
                prompt = self.answers[name].num_prompt_tokens
                sequence.tokens = list(again.all_token_ids.get(name, sequence.tokens))
                assert len(sequence.tokens) == prompt + again.num_output_tokens[i]
                sequence.mode = mode_from(len(sequence.tokens))
                sequence.blocks = []
                fresh.add(name)
            sequence.blocks += added[0] if added else []
            starts[name] = again.num_computed_tokens[i]
        sampled = []
        for name, count in output.num_scheduled_tokens.items():
            sequence, end = self.sequences[name], starts[name] + count
            for position in range(starts[name], end):
                self.cache[self.place(sequence, position)] = self.key(sequence, position)
            if name in fresh or end % CHECK_EVERY == 0:
                for position in range(end):
                    assert self.cache[self.place(sequence, position)] == self.key(sequence, position)
            if end == len(sequence.tokens):
                self.steps[name].append((end, sequence.mode))
                sequence.tokens.append(next_token(end))
                sampled.append([sequence.tokens[-1]])
            else:
                sampled.append([])
        names = list(output.num_scheduled_tokens)
        return ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, sampled)

    @staticmethod
    def place(sequence: Sequence, position: int) -> tuple[int, int]:
        return sequence.blocks[position // BLOCK], position % BLOCK

    @staticmethod
    def key(sequence: Sequence, position: int) -> tuple[RopeMode, int, int]:
        return sequence.mode, position, sequence.tokens[position]

    def check(self, name: str) -> None:
        """The answer is whole, and each of its tokens was computed with the original's factors."""
        request = self.answers[name]
        prompt, answer = request.num_prompt_tokens, request.max_tokens
        assert list(request.output_token_ids) == [next_token(n) for n in range(prompt, prompt + answer)]
        assert dict(self.steps[name]) == {
            n: "short" if n <= WINDOW and prompt < WINDOW else "long" for n in range(prompt, prompt + answer)
        }


LENGTHS = [
    (50, 40),
    (4000, 97),
    (4000, 98),
    (4000, 300),
    (4095, 1),
    (4095, 2),
    (4095, 9),
    (4096, 9),
    (5000, 20),
]


def test_short_up_to_the_window_and_long_beyond(config: VllmConfig) -> None:
    engine = Engine(config)
    for i, (prompt, answer) in enumerate(LENGTHS):
        engine.ask(f"{prompt}+{answer}", prompt, answer, first=i)
    engine.run()
    for prompt, answer in LENGTHS:
        name = f"{prompt}+{answer}"
        engine.check(name)
        crosses = prompt < WINDOW and prompt + answer - 1 > WINDOW
        assert engine.answers[name].num_preemptions == crosses


@pytest.mark.parametrize("salt", [None, "mine"])
def test_the_modes_share_no_block(config: VllmConfig, salt: str | None) -> None:
    """One text at several lengths, one after the other, each of which finds what its own mode left."""
    engine = Engine(config)
    found = []
    for i, (prompt, answer) in enumerate([(4000, 300), (5000, 5), (4000, 300), (3000, 5), (4096, 5)]):
        engine.ask(str(i), prompt, answer, salt=salt)
        engine.run()
        engine.check(str(i))
        found.append(engine.cached[str(i)])
    # The second finds what the first one left beyond the window.
    assert found == [0, 4288, 3984, 2992, 4080]


def test_a_clients_salt_reaches_no_other(config: VllmConfig) -> None:
    engine = Engine(config)
    for i, salt in enumerate(["a", "b", None, "long:", "long:a", "short:", "short:a"]):
        for prompt in (3000, 5000):
            engine.ask(f"{i} {prompt}", prompt, 2, salt=salt)
            engine.run()
            assert engine.cached[f"{i} {prompt}"] == 0


@pytest.mark.parametrize("order", [1, -1], ids=["oldest-longest", "oldest-shortest"])
def test_preempted_before_within_and_behind_the_window(config: VllmConfig, order: int) -> None:
    """Blocks for the prompts of three of five sequences that all outgrow the window, not for their answers:
    vLLM preempts the youngest, too, and all come back."""
    lengths = [(4090, 200), (4040, 220), (3980, 260), (3900, 300), (4300, 150)][::order]
    engine = Engine(config, blocks=775)
    for i, (prompt, answer) in enumerate(lengths):
        engine.ask(str(i), prompt, answer, first=i)
    engine.run()
    for i in range(len(lengths)):
        engine.check(str(i))
    outgrew = sum(prompt < WINDOW for prompt, _ in lengths)
    assert sum(request.num_preemptions for request in engine.answers.values()) > outgrew


def test_keeps_its_place_in_a_full_batch(config: VllmConfig) -> None:
    """It goes on at once, before those that wait for a place."""
    engine = Engine(config, max_num_seqs=2)
    for i in range(2):
        engine.ask(f"grows {i}", 4090, 30, first=i)
    for i in range(3):
        engine.ask(f"waits {i}", 100, 200, first=10 + i)
    engine.run()
    assert engine.ended[:2] == ["grows 0", "grows 1"]


def test_drafts_end_with_the_window(config: VllmConfig) -> None:
    engine = Engine(config)
    request = engine.ask("drafted", 4090, 20)
    while request.num_tokens < 4093:
        output = engine.scheduler.schedule()
        engine.scheduler.update_from_output(output, engine.work(output))
    request.spec_token_ids = [7, 7, 7]
    assert engine.scheduler.schedule().num_scheduled_tokens["drafted"] == 4  # up to the window


def test_refuses_what_keeps_keys_of_its_own() -> None:
    connector = KVTransferConfig(kv_connector="DecodeBenchConnector", kv_role="kv_both")
    config = engine_config.__wrapped__(kv_transfer_config=connector)
    with pytest.raises(ValueError, match="use --rope long"):
        Engine(config)
