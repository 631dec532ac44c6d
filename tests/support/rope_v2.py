"""vLLM's V2 runner (the one on CUDA) asking us for positions, in Triton's interpreter on a CPU.

Run by `test_rope_table`, in a process of its own because the interpreter must be chosen before Triton
is imported. What is replaced is only where tensors lie: plain memory for pinned memory.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.backends

# vLLM's CPU build switches Triton off without a backend of this name; the interpreter needs none.
if not torch.cuda.is_available():
    triton.backends.backends.setdefault("cpu", triton.backends.backends["nvidia"])

from phi_vision.model import rope_table
from vllm.v1.worker.gpu import buffer_utils
from vllm.v1.worker.gpu.mm.rope import RopeState

LONG_OFFSET = 131072


class PlainBuffer:
    """`UvaBuffer` without pinned memory."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.cpu = torch.zeros(size, dtype=dtype)
        self.np = self.cpu.numpy()
        self._uva = self.cpu

    def uva(self, n: int | None = None) -> torch.Tensor:
        return self.cpu[:n]


buffer_utils.UvaBuffer = PlainBuffer
buffer_utils.is_uva_available = lambda: True
buffer_utils.async_tensor_h2d = lambda x, device=None, dtype=None: torch.as_tensor(x, dtype=dtype)


class Model:
    def get_mrope_input_positions(self, tokens: list[int], features: list[Any]) -> tuple[torch.Tensor, int]:
        return rope_table.positions(len(tokens), LONG_OFFSET)


def step(state: RopeState, lengths: dict[int, int], prefill: list[int], computed: list[int]) -> list[int]:
    """Positions of one step: `lengths` tokens of these requests, in this order."""
    starts = torch.tensor([0, *lengths.values()]).cumsum(0).int()
    state.prepare_positions(
        torch.tensor(list(lengths), dtype=torch.int32),
        starts,
        torch.tensor(prefill, dtype=torch.int32),
        torch.tensor(computed, dtype=torch.int32),
    )
    rows = state.get_positions(int(starts[-1]))
    assert bool((rows == rows[0]).all())
    return rows[0].tolist()


def main() -> None:
    state = RopeState(rope_table.MROPE_ROWS, 2, 8192, 8192, torch.device("cpu"))
    state.init_prefill_positions(0, Model(), [7] * 5, [])
    state.init_prefill_positions(1, Model(), [7] * 5000, [])
    state.apply_staged_writes()
    steps = {
        "prefill": step(state, {0: 5, 1: 5000}, prefill=[5, 5000], computed=[0, 0]),
        "chunk": step(state, {0: 1, 1: 2}, prefill=[5, 5000], computed=[4, 4998]),
        "decode": step(state, {1: 1, 0: 1}, prefill=[5, 5000], computed=[5, 5000]),
    }
    # After preemption vLLM adds a request anew, its answer so far behind the prompt.
    for name, length in (("resumed short", 8), ("resumed long", 4097)):
        state.init_prefill_positions(0, Model(), [7] * length, [])
        state.apply_staged_writes()
        steps[name] = step(state, {0: length}, prefill=[length, 5000], computed=[0, 0])
    print(json.dumps(steps))


main()
