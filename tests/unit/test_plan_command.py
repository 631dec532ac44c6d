"""`phi-vision plan`: its table, its JSON and its mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from phi_vision.planning.picture_costs import KINDS


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phi_vision", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_plan_of_an_a10_on_one_screen() -> None:
    done = run("plan", "--gpu", "a10")
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    marked = [line.split() for line in lines if line.startswith("> long")]
    assert marked[0][:4] == [">", "long", "fp8_per_block", "int4_per_token_head"]
    assert "131,072" in marked[0]
    assert "1,921 tokens = 195 MiB" in done.stdout
    assert "phi-vision serve --profile long --max-model-len 131072" in done.stdout
    assert "pictures a second, at most" in done.stdout and "> 1 API process, " in done.stdout
    assert "vllm serve microsoft/Phi-3.5-vision-instruct --max-model-len 131072" in done.stdout


def test_plan_as_json_and_its_command_lines_parse() -> None:
    done = run("plan", "--gpu", "a100-40", "--json")
    body = json.loads(done.stdout)
    plan = body["plans"][body["chosen"]]
    assert (plan["profile"], plan["weights"], plan["kv_dtype"]) == ("balanced", "bf16", "int8_per_token_head")
    terms = ("text_weights_bytes", "vision_weights_bytes", "activations_bytes", "runtime_bytes")
    assert sum(plan[term] for term in terms) + plan["kv_available_bytes"] == plan["budget_bytes"]
    from phi_vision.cli.main import parser

    command = body["commands"]["phi-vision"].split()
    options = parser().parse_args(command[1:])
    assert (options.profile, options.max_model_len) == ("balanced", 131072)


def test_plan_for_other_cores_than_this_machines() -> None:
    planned = json.loads(run("plan", "--gpu", "h100", "--cores", "48", "--json").stdout)["front_end"]
    assert planned["cores"] == planned["media_workers"] == 48 and planned["api_processes"] == 1
    assert [rate["picture"] for rate in planned["rates"]] == [kind.name for kind in KINDS]
    assert all(rate["gpu"] < rate["cores"] for rate in planned["rates"])


def test_plan_counts_the_crops_that_it_plans_with() -> None:
    """Several pictures get four crops each, however few a single one gets."""
    few = run("plan", "--gpu", "a100-80", "--num-crops", "1").stdout
    assert "up to 4 crops" in few and "picture at 4 crops = 757 tokens" in few
    one = run("plan", "--gpu", "a100-80", "--num-crops", "1", "--num-crops-multi", "1").stdout
    assert "up to 1 crops" in one and "picture at 1 crops = 313 tokens" in one


def test_plan_of_a_described_gpu_equals_the_named_one() -> None:
    named = json.loads(run("plan", "--gpu", "a10", "--json").stdout)
    described = json.loads(run("plan", "--vram", "22.1", "--capability", "8.6", "--json").stdout)
    assert described["plans"] == named["plans"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "t4"], "--max-model-len 74544 fits"),
        (["--vram", "24"], "--vram and --capability go together"),
        (["--gpu", "a10", "--vram", "24", "--capability", "8.6"], "give one of them"),
        (["--vram", "24", "--capability", "new"], "major.minor"),
        (["--vram", "nan", "--capability", "8.6"], "above zero"),
        (["--gpu", "voodoo2"], "invalid choice"),
        (["--gpu", "a10", "--cores", "0"], "not a number from 1"),
        (["--gpu", "a10", "--max-model-len", "many"], "invalid tokens value"),
        (["--gpu", "a10", "--model", "./no-such-folder"], "no config.json"),
        (["--gpu", "a10", "--profile", "faithful", "--max-model-len", "9000"], "allows 4096 at most"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_plan(arguments: list[str], said: str) -> None:
    done = run("plan", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
