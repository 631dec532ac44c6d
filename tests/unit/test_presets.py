"""The table of presets, and how it is shown."""

from __future__ import annotations

from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks import presets
from phi_vision.tasks.presets import PRESETS


def test_every_preset_is_shown_with_all_that_it_fills_in() -> None:
    listed = {entry["id"]: entry for entry in presets.describe([])["data"]}
    assert list(listed) == list(PRESETS)
    keys = {frozenset(entry) for entry in listed.values()}
    assert len(keys) == 1  # clients need not ask which keys an entry has
    for task, preset in PRESETS.items():
        shown = listed[task]
        assert (shown["description"], shown["prompt"], shown["system"]) == (
            preset.description,
            preset.prompt,
            preset.system,
        )
        assert {name: shown[name] for name in preset.fields} == preset.fields
        assert shown["ends_loops"] is (task == "ocr")
        assert shown["stop_tokens"] == list(PHI_3_5_VISION.stop_tokens)


def test_each_preset_names_its_models_in_the_servers_order() -> None:
    served = [*presets.model_names("eyes"), *presets.model_names("a:b")]
    listed = {entry["id"]: entry["models"] for entry in presets.describe(served)["data"]}
    assert listed == {task: [f"eyes:{task}", f"a:b:{task}"] for task in PRESETS}


def test_a_models_name_ends_with_its_task_or_has_none() -> None:
    assert presets.task_of("phi-3.5-vision:ocr") == "ocr"
    assert presets.task_of("phi-3.5-vision") is presets.task_of("phi:translate") is None
