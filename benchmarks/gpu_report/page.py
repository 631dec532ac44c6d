"""The report as one page of Markdown, from report.json."""

from __future__ import annotations

from typing import Any

GIB = 1 << 30


def page(report: dict[str, Any]) -> str:
    """All tables."""
    machine, versions = report["machine"], report["versions"]
    memory_gib = (machine["gpu_memory_bytes"] or machine["memory_bytes"]) / GIB
    rows = {row["step"]: row for row in report["steps"]}
    parts = [
        f"# {machine['gpu'] or machine['cpu']}, {memory_gib:.1f} GiB",
        f"{report['written'][:10]}; {machine['cores']} cores of {machine['cpu']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". Weights: {report['weights']}.",
        _overview(report["steps"]),
        _kernels(rows.get("kernels")),
        _serving(rows.get("default")),
        _rope(_found(rows.get("rope"))),
        _memory(report["steps"]),
        _long(report["steps"]),
        _speed(report["steps"]),
        _pictures(rows.get("picture path")),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(title: str, head: list[str], rows: list[list[Any]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    body = "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
    return f"## {title}\n\n{body}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)


def _gib(value: int | float | None) -> str | None:
    return None if value is None else f"{value / GIB:.2f}"


def _found(row: dict[str, Any] | None) -> dict[str, Any]:
    return (row or {}).get("found") or {}


def faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a step: servers that did not start, and findings that say so."""
    starts = [error[-200:] for error in row.get("start_errors", [])]
    return starts + _faults_in(_found(row), "")


def _faults_in(value: Any, where: str) -> list[str]:
    """Where findings have an `error`, or are not `right`."""
    if isinstance(value, list):
        return [fault for item in value for fault in _faults_in(item, where)]
    if not isinstance(value, dict):
        return []
    faulty = [f"{where}: {value['error'][:200]}"] if "error" in value else []
    faulty += [f"{where}: not right"] if value.get("right") is False else []
    return faulty + [f for key, item in value.items() for f in _faults_in(item, f"{where} {key}".strip())]


def _overview(steps: list[dict[str, Any]]) -> str:
    rows = []
    for row in steps:
        servers = row.get("servers", {}).values()
        starts = ", ".join(f"{server['start_s']:.1f} s" for server in servers) or None
        how = ("compiled" if all(server["compiled"] for server in servers) else "eager") if servers else None
        faulty = "; ".join(faults(row)).replace("\n", " ").replace("|", "/") or None
        rows.append([row["step"], row["what"], row["complete"], row["seconds"], starts, how, faulty])
    return _table("Steps", ["step", "what", "complete", "s", "start", "how", "faults"], rows)


def _kernels(row: dict[str, Any] | None) -> str:
    found = _found(row)
    kernels = {name: k for name, k in found.get("kernels", {}).items() if "right" in k}
    rows = [[name, f"{k['relative_error']:.1e}", k["right"]] for name, k in kernels.items()]
    for name, k in found.get("quantized caches", {}).items():
        if "right" in k:
            rows.append([f"KV cache {name}", f"{k['attention_off_torch_percent'] / 100:.1e}", k["right"]])
    return _table("Kernels against the CPU", ["kernel", "relative error", "right"], rows)


def _serving(row: dict[str, Any] | None) -> str:
    rows = []
    for name in ("caption", "ocr", "vqa"):
        asked = _found(row).get(name, {})
        if asked and "error" not in asked:
            size = "x".join(map(str, asked["pixels"]))
            right = asked["right"]
            rows.append(
                [name, size, asked["prompt_tokens"], asked["image_tokens"]["high"], right, asked["rope"]]
            )
    head = ["task", "picture", "prompt tokens", "of the picture", "as by the formula", "rope"]
    return _table("Requests with a picture", head, rows)


def _rope(found: dict[str, Any]) -> str:
    sums = {name.removesuffix(": sum"): row for name, row in found.items() if name.endswith(": sum")}
    head = ["server", *(key.replace("_", " ") for row in list(sums.values())[:1] for key in row)]
    lines = [[name, *row.values()] for name, row in sums.items()]
    return _table("LongRoPE against the reference", head, lines)


def _memory(steps: list[dict[str, Any]]) -> str:
    lines = []
    for row in steps:
        for name, server in row.get("servers", {}).items():
            plan, account, actual = server["plan"], server["account"], server["actual"] or {}
            if not plan or server["weights"] != "full size":
                continue
            weights = plan["text_weights_bytes"] + plan["vision_weights_bytes"]
            memory = server["memory"] or {}
            lines.append(
                [
                    *(name, actual.get("max_model_len"), plan["kv_tokens"], actual.get("kv_tokens")),
                    server["plan_error_percent"],
                    *(_gib(weights), _gib(account["weights_bytes"]), _gib(account["consumed_bytes"])),
                    *(_gib(plan["activations_bytes"]), _gib(account["activation_peak_bytes"])),
                    *(_gib(plan["runtime_bytes"]), _gib(account["cuda_graph_bytes"])),
                    *(
                        _gib(plan["budget_bytes"]),
                        _gib(memory.get("steady_bytes")),
                        _gib(memory.get("peak_bytes")),
                    ),
                ]
            )
    head = ["server", "context", "KV tokens planned", "got", "plan off, %", "weights planned", "loaded"]
    head += [
        "with all but torch's cache",
        "activations planned",
        "profiled",
        "runtime planned",
        "CUDA graphs",
    ]
    head += ["budget", "NVML idle", "NVML peak"]
    return _table("The plan against vLLM's account and the driver's, GiB", head, lines)


def _long(steps: list[dict[str, Any]]) -> str:
    lines = []
    for row in steps:
        asked = _found(row).get("long request")
        if asked and "error" not in asked:
            lines.append([row["step"], *asked.values()])
            head = ["step", *(key.replace("_", " ") for key in asked)]
    return _table("One long request", head, lines) if lines else ""


def _speed(steps: list[dict[str, Any]]) -> str:
    """Every closed loop of every step, by work and load, so that servers stand under one another."""
    found = [cell for row in steps for cell in _found(row).values() if isinstance(cell, dict)]
    cells = sorted((c for c in found if "concurrency" in c), key=lambda c: (c["work"], c["concurrency"]))
    if not cells:
        return ""
    head = [key.replace("_", " ") for key in cells[0]]
    return _table("Speed, in closed loops", head, [list(cell.values()) for cell in cells])


def _pictures(row: dict[str, Any] | None) -> str:
    measured = _found(row).get("pictures", [])
    head = ["picture", "decode, ms", "ours, ms", "published processor, ms", "ours, MB", "published, MB"]
    keys = ("decode_ms", "ours_ms", "reference_ms")
    sizes = ("ours_bytes", "reference_bytes")
    rows = [
        [m["picture"], *(round(m[key], 1) for key in keys), *(round(m[key] / 1e6, 1) for key in sizes)]
        for m in measured
    ]
    return _table("The host's work on a picture, one core", head, rows)
