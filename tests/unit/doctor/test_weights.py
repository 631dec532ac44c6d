"""A checkpoint that is not whole, a disk that is full, a hub that cannot help."""

from __future__ import annotations

from pathlib import Path

import pytest
from phi_vision.doctor import weights
from phi_vision.doctor.finding import Finding, Level
from phi_vision.doctor.hub import HubFault
from phi_vision.doctor.setup import Setup
from phi_vision.planning.hub import Listing
from phi_vision.planning.weights_cache import INDEX, Listed

from tests.support.hub_cache import COMMIT, FIRST, HUB_ID, SECOND, SHARDED, digest, fill
from tests.support.setups import setup_for, setup_with

GONE = HubFault("it cannot be reached: no route", "check the network")
LISTING = Listing(COMMIT, {name: Listed(len(of), digest(name, of)) for name, of in SHARDED.items()})


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def setup(hub: HubFault | Listing = LISTING, model: str = HUB_ID) -> Setup:
    return setup_with(setup_for(model), hub_answer=hub)


def files(hub: HubFault | Listing = LISTING, model: str = HUB_ID) -> Finding:
    return weights.files(setup(hub, model))


def disk(hub: HubFault | Listing = LISTING, model: str = HUB_ID) -> Finding:
    found = weights.disk(setup(hub, model))
    assert found is not None
    return found


def hub(answer: HubFault | Listing, model: str = HUB_ID) -> Finding:
    found = weights.hub(setup(answer, model))
    assert found is not None
    return found


def test_a_whole_checkpoint(cache: Path) -> None:
    snapshot = fill(cache)
    assert files().level == Level.OK and files().summary.endswith(f"GB in {snapshot}")
    assert files(GONE).level == Level.OK
    assert disk().level == Level.OK and "to be downloaded" not in disk().summary
    contents = weights.contents(setup())
    assert contents and contents.level == Level.OK


def test_a_hub_that_answers_and_one_that_does_not(cache: Path) -> None:
    assert hub(LISTING).level == Level.OK
    assert (hub(GONE).level, hub(GONE).remedy) == (Level.FAIL, GONE.remedy)
    assert hub(GONE, "auto").level == Level.WARN and "the demo model is served" in hub(GONE, "auto").summary
    fill(cache)
    assert hub(GONE).level == Level.OK and "not needed" in hub(GONE).summary


def test_nothing_is_here_yet(cache: Path) -> None:
    assert (files().level, files().summary) == (Level.WARN, f"{HUB_ID} is not here yet")
    assert files().remedy == "the next start downloads 0.00 GB"
    assert files(GONE).level == Level.FAIL
    assert files(GONE, "auto").level == Level.WARN


@pytest.mark.parametrize("name", [FIRST, INDEX])
def test_a_missing_file(cache: Path, name: str) -> None:
    (fill(cache) / name).unlink()
    assert files().level == Level.WARN and f"{name} is missing" in files().summary
    assert files(GONE).level == Level.FAIL and f"{name} is missing" in files(GONE).summary


@pytest.mark.parametrize("num_bytes", [0, 100])
def test_a_file_that_is_cut_short(cache: Path, num_bytes: int) -> None:
    with (fill(cache) / SECOND).open("r+b") as opened:
        opened.truncate(num_bytes)
    assert files().level == Level.WARN and files(GONE).level == Level.FAIL
    assert f"{SECOND} is incomplete: {num_bytes} of {len(SHARDED[SECOND])} bytes" in files().summary


def test_what_the_hub_has_now_counts(cache: Path) -> None:
    fill(cache)
    newer = Listing("f" * 40, LISTING.files)
    assert files(newer).level == Level.WARN and files(GONE).level == Level.OK


def test_many_faults_are_counted(cache: Path) -> None:
    snapshot = fill(cache)
    for name in (FIRST, SECOND, INDEX, "tokenizer.json"):
        (snapshot / name).unlink()
    assert files().summary.endswith("is missing; and 1 more")


def test_contents_that_are_not_what_was_published(cache: Path) -> None:
    file = fill(cache) / FIRST
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    told: list[str] = []
    found = weights.contents(setup_with(setup_for(HUB_ID, progress=told.append), hub_answer=LISTING))
    assert found and (found.level, found.summary) == (Level.FAIL, f"damaged: {FIRST}")
    assert str(file.resolve()) in str(found.remedy) and told[-1] == "100 %"


def test_contents_without_digests(cache: Path, tmp_path: Path) -> None:
    assert weights.contents(setup()) is None
    found = weights.contents(setup(model="demo"))
    assert found and found.level == Level.SKIPPED


def test_a_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = fill(cache)
    monkeypatch.setattr(weights, "free_bytes", lambda _: 1000)
    assert disk().level == Level.OK  # nothing is missing
    (snapshot / FIRST).unlink()
    assert disk().level == Level.FAIL and "HF_HOME" in str(disk().remedy)
    monkeypatch.setattr(weights, "free_bytes", lambda _: 10_000)
    assert disk().level == Level.OK and "0.00 GB must still be downloaded" in disk().summary
    assert disk(GONE, "someone/else").summary.endswith("what is missing must still be downloaded")


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # these tests may run as root
    assert disk().level == Level.FAIL and "cannot be written" in disk().summary


def test_the_demo_and_folders_of_the_users_own(tmp_path: Path) -> None:
    assert files(model="demo").level == Level.OK
    assert weights.hub(setup(model="demo")) is None and weights.disk(setup(model="demo")) is None
    for folder in (tmp_path, tmp_path / "none"):
        found = files(model=str(folder))
        assert found.level == Level.FAIL and "no checkpoint there" in found.summary and found.remedy
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(SHARDED[FIRST][:200])
    assert "model.safetensors is incomplete: 200 of " in files(model=str(tmp_path)).summary
