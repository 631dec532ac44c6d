"""vLLM's engine inside a study's own process, eager and with the threads of a CPU's worker."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.planning.launch_plan import SPINS

from benchmarks.harness import drawing, machine

_STARTED_ANEW = "PHI_VISION_STUDY_ENVIRONMENT"
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_PLUGINS": "phi_vision_model",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCHDYNAMO_DISABLE": "1",  # as `phi-vision serve` has it on a CPU
    "GOMP_SPINCOUNT": str(SPINS),  # the same
    "HF_HUB_OFFLINE": "1",
}
TEXT_WORDS = 600


def start_as_worker(module: str) -> None:
    """Start this program again with what vLLM gives a worker: one library of threads, each on a core."""
    if _STARTED_ANEW in os.environ:
        return
    cores = sorted(os.sched_getaffinity(0))
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    (threads,) = Path(spec.origin).parent.glob("lib/libgomp*.so*")
    worker = {
        "LD_PRELOAD": str(threads),
        "OMP_NUM_THREADS": str(len(cores)),
        "GOMP_CPU_AFFINITY": " ".join(map(str, cores)),
        _STARTED_ANEW: "1",
    }
    command = [sys.executable, "-m", module, *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **_ENVIRONMENT, **worker})


def start(model: str, num_crops: int) -> Any:
    """vLLM's `LLM` without caches of prompts and pictures; one picture has up to `num_crops` crops."""
    from vllm import LLM

    return LLM(
        model=model,
        enforce_eager=True,
        max_model_len=8192,
        max_num_batched_tokens=2048,
        max_num_seqs=16,
        disable_sliding_window=True,
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        mm_processor_kwargs={"single": num_crops, "multi": 4, "adaptive": False},
        hf_overrides={"longrope_per_request": True},
        distributed_executor_backend="uni",
        seed=0,
    )


def network_of(llm: Any) -> Any:
    """The model as a module of torch."""
    return llm.llm_engine.model_executor.driver_worker.get_model()


def answer(llm: Any, prompt: dict[str, Any], tokens: int) -> None:
    """Compute an answer of so many tokens."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    llm.generate([prompt], params, use_tqdm=False)


def picture_prompt(rng: Random) -> dict[str, Any]:
    """About an invoice of 800x600."""
    prompt = "<|user|>\n<|image_1|>\nread<|end|>\n<|assistant|>\n"
    return {"prompt": prompt, "multi_modal_data": {"image": drawing.invoice(rng)}}


def text_prompt(rng: Random, words: int = TEXT_WORDS) -> dict[str, Any]:
    """Words, and a number that no other prompt has."""
    return {"prompt": f"<|user|>\n{rng.random()} {'word ' * words}<|end|>\n<|assistant|>\n"}


def run(module: str, about: str, measure: Callable[[str, int, int], list[dict[str, Any]]]) -> None:
    """A study's command: measure a model, write the result; the last line is one JSON object.

    Args:
        module: the study's, started again as a worker.
        about: its docstring.
        measure: takes the model's folder, the most crops of a picture and the rounds; gives the rows.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--model", default=str(DEMO_FOLDER), metavar="DIR", help="(default: the demo)")
    parser.add_argument("--what", default="demo", help="its name in the result (default: %(default)s)")
    parser.add_argument("--num-crops", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result there")
    options = parser.parse_args()
    start_as_worker(module)
    result = {
        "machine": machine.describe_machine(),
        "git": machine.git_state(),
        "what": options.what,
        "num_crops": options.num_crops,
        "rounds": options.rounds,
        "rows": measure(options.model, options.num_crops, options.rounds),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
