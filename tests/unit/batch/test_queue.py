"""The durable queue: states, order, what survives, and what is said where it cannot be written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from phi_vision.batch.queue import Queue, QueueError
from phi_vision.batch.work import Item, ItemError, Record
from phi_vision.errors import UsageError

REFUSED = ItemError("no picture", cause="refused", status=400, body={"error": {"message": "no picture"}})
BROKEN = ItemError("broken", cause="server", status=500, is_final=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture
def queue(path: Path) -> Iterator[Queue]:
    with Queue(path) as queue:
        yield queue


def items(count: int, start: int = 0) -> Iterator[Item]:
    return (Item(f"page {number}", {"page": number}) for number in range(start, count))


def taken(queue: Queue) -> Record:
    record = queue.take()
    assert record
    return record


def counts(queue: Queue) -> tuple[int, ...]:
    found = queue.counts()
    return tuple(found[state] for state in ("waiting", "asked", "done", "failed"))


def test_items_are_taken_in_order_and_their_results_kept(queue: Queue, path: Path) -> None:
    assert queue.add(items(3)) == 3
    first, second = taken(queue), taken(queue)
    assert first == Record(0, Item("page 0", {"page": 0}), "asked")
    assert second.item.key == "page 1"
    done = queue.finish(second, {"text": "Grüße \U0001f600 \0", "words": [["Grüße", None, 0]]})
    failed = queue.fail(first, REFUSED, again=False)
    assert (done.state, done.attempts) == ("done", 1)
    assert failed.error == {
        "message": "no picture",
        "cause": "refused",
        "status": 400,
        "body": {"error": {"message": "no picture"}},
    }
    assert counts(queue) == (1, 0, 1, 1)
    queue.close()
    with Queue(path) as again:
        assert list(again.records()) == [failed, done, Record(2, Item("page 2", {"page": 2}), "waiting")]
        assert list(again.records("failed")) == [failed]
        assert list(again.records("done", "failed")) == [failed, done]
        assert counts(again) == (1, 0, 1, 1)


def test_an_item_that_is_there_stays_as_it_is(queue: Queue) -> None:
    queue.add(items(2))
    queue.finish(taken(queue), {"text": "a"})
    assert queue.add([Item("page 0", {"page": 7}), *items(4), *items(4)]) == 2
    assert [(r.number, r.item.key, r.state) for r in queue.records()] == [
        (0, "page 0", "done"),
        (1, "page 1", "waiting"),
        (2, "page 2", "waiting"),
        (3, "page 3", "waiting"),
    ]
    assert next(queue.records()).item.request == {"page": 0}
    assert counts(queue) == (3, 0, 1, 0)


def test_an_item_that_is_not_done_gets_a_new_request(queue: Queue) -> None:
    """A document that could be counted at last."""
    queue.add(items(3))
    queue.fail(taken(queue), REFUSED, again=False)
    queue.finish(taken(queue), {"text": "a"})
    assert queue.add(Item(f"page {number}", {"page": number, "pages": 3}) for number in range(4)) == 1
    assert counts(queue) == (2, 0, 1, 1)
    assert [len(record.item.request) for record in queue.records()] == [2, 1, 2, 2]


def test_large_requests_are_not_held_together(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi_vision.batch.queue._ADDED_CHARS_AT_ONCE", 50)
    held: list[int] = []

    def large() -> Iterator[Item]:
        for number in range(10):
            held.append(number - sum(queue.counts().values()))
            yield Item(str(number), {"text": "x" * 20})

    assert queue.add(large()) == 10 and max(held) == 1


def test_what_was_listed_before_an_error_is_kept(queue: Queue) -> None:
    def listing() -> Iterator[Item]:
        yield from items(1500)
        raise UsageError("no such folder")

    with pytest.raises(UsageError, match="no such folder"):
        queue.add(listing())
    assert counts(queue) == (1000, 0, 0, 0)
    assert queue.add(items(1500)) == 500


def test_an_item_that_is_given_back_keeps_its_place_and_its_attempts(queue: Queue) -> None:
    queue.add(items(3))
    queue.give_back(taken(queue))
    record = taken(queue)
    assert (record.item.key, record.attempts) == ("page 0", 0)
    assert [taken(queue).item.key for _ in range(2)] == ["page 1", "page 2"]
    assert queue.take() is None


def test_an_item_that_is_tried_again_goes_behind_the_others(queue: Queue) -> None:
    queue.add(items(3))
    for _ in range(3):
        assert queue.fail(taken(queue), BROKEN, again=True).error is None
    records = [taken(queue) for _ in range(3)]
    assert [(record.item.key, record.attempts) for record in records] == [(f"page {n}", 1) for n in range(3)]
    queue.give_back(records[1])
    assert queue.fail(records[0], BROKEN, again=True).attempts == 2
    assert [taken(queue).number for _ in range(2)] == [1, 0]


def test_items_that_failed_are_tried_again_on_request(queue: Queue) -> None:
    queue.add(items(3))
    queue.finish(taken(queue), {"text": "a"})
    queue.fail(taken(queue), REFUSED, again=False)
    assert queue.retry_failed() == 1 and queue.retry_failed() == 0
    assert counts(queue) == (2, 0, 1, 0)
    assert taken(queue) == Record(1, Item("page 1", {"page": 1}), "asked")


@pytest.mark.parametrize("act", ["finish", "fail", "give_back"])
def test_an_item_that_is_not_asked_does_not_change(queue: Queue, act: str) -> None:
    queue.add(items(1))
    record = taken(queue)
    done = queue.finish(record, {"text": "a"})
    acts: dict[str, Callable[[], object]] = {
        "finish": lambda: queue.finish(record, {"text": "b"}),
        "fail": lambda: queue.fail(record, REFUSED, again=True),
        "give_back": lambda: queue.give_back(record),
    }
    with pytest.raises(ValueError, match="'page 0' is not asked"):
        acts[act]()
    assert list(queue.records()) == [done] and counts(queue) == (0, 0, 1, 0)


def test_settings_are_kept_with_the_run(queue: Queue, path: Path) -> None:
    assert queue.settings == {}
    queue.set_settings({"task": "ocr"})
    queue.set_settings({"task": "ocr", "prompt": None})
    queue.close()
    with Queue(path) as again:
        assert again.settings == {"task": "ocr", "prompt": None}


@pytest.mark.parametrize("key", ["a\udcff.png", "\ud800", "a\\udcff.png", "", "\0", "x" * 10_000, "ß"])
def test_a_key_is_any_text(queue: Queue, key: str) -> None:
    """Names of files need not be UTF-8, and JSON can bring halves of surrogate pairs."""
    assert queue.add([Item(key, {"source": key}), Item(key, {"source": key}), Item("other", {})]) == 2
    record = queue.finish(taken(queue), {"text": key})
    assert (record.item.key, next(queue.records())) == (key, record)
    assert record.item.request == {"source": key} and record.result == {"text": key}


def test_a_transaction_that_fails_changes_nothing(queue: Queue) -> None:
    queue.add(items(3))
    record = taken(queue)
    before = list(queue.records())
    with pytest.raises(KeyError), queue.transaction():
        queue.finish(record, {"text": "a"})
        queue.take()
        raise KeyError
    assert list(queue.records()) == before and counts(queue) == (2, 1, 0, 0)
    with queue.transaction():
        queue.finish(record, {"text": "a"})
    assert counts(queue) == (2, 0, 1, 0)


def test_a_second_opening_is_refused(queue: Queue, path: Path) -> None:
    queue.add(items(2))
    record = taken(queue)
    with pytest.raises(UsageError, match="another run is at work on"):
        Queue(path)
    program = (
        "import pathlib, sys\n"
        "from phi_vision.batch.queue import Queue\nfrom phi_vision.errors import UsageError\n"
        "try: Queue(pathlib.Path(sys.argv[1]))\nexcept UsageError as error: print(error)"
    )
    other = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert other.stdout.startswith("another run is at work on")
    assert list(queue.records("asked")) == [record]  # the others have put nothing back
    queue.close()
    Queue(path).close()


def test_a_process_that_is_started_meanwhile_does_not_keep_the_lock(path: Path) -> None:
    with Queue(path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    Queue(path).close()
    child.communicate()


def test_it_may_be_read_while_it_is_open(queue: Queue, path: Path) -> None:
    queue.add(items(2))
    queue.finish(taken(queue), {"text": "a"})
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    read = reader.execute("SELECT state FROM items ORDER BY place")
    assert read.fetchone() == ("done",)
    queue.finish(taken(queue), {"text": "b"})  # a reader does not hold it up
    read.close()
    reader.close()


def test_alone_it_shares_no_memory_and_is_not_read(path: Path) -> None:
    shared = path.with_name(f"{path.name}-shm")
    with Queue(path, exclusive=True) as queue:
        queue.add(items(2))
        assert not shared.exists()
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            reader.execute("SELECT * FROM items")
        reader.close()
    with Queue(path) as queue:
        assert shared.exists() and queue.counts()["waiting"] == 2


def test_a_full_disk_is_said_and_nothing_is_lost(queue: Queue, path: Path) -> None:
    queue.set_settings({"task": "ocr"})
    queue.add(items(10))
    queue.finish(taken(queue), {"text": "a"})
    record = taken(queue)
    before = list(queue.records())
    pages = queue._database.execute("PRAGMA page_count").fetchone()[0]
    queue._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(QueueError, match=r"disk is full.* start again once there is space again"):
        queue.finish(record, {"text": "x" * 100_000})
    with pytest.raises(QueueError, match="disk is full"):
        queue.add(items(5000))
    assert list(queue.records()) == before and counts(queue) == (8, 1, 1, 0)
    assert queue.settings == {"task": "ocr"}
    queue._database.execute("PRAGMA max_page_count = 1000000")  # there is space again
    queue.finish(record, {"text": "x" * 100_000})
    queue.close()
    with Queue(path) as again:
        assert counts(again) == (8, 0, 2, 0)


def test_a_file_that_is_no_queue_is_refused_in_words(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    other.write_text("hello " * 1000)
    with pytest.raises(UsageError, match="is not the state of a run"):
        Queue(other)
    with pytest.raises(UsageError, match=r"cannot write to .*: No such file"):
        Queue(tmp_path / "missing" / "run.sqlite")
    newer = tmp_path / "newer.sqlite"
    Queue(newer).close()
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(UsageError, match="is of another version"):
        Queue(newer)
    assert other.read_text() == "hello " * 1000


def test_reading_holds_a_few_records(queue: Queue) -> None:
    """Results of 20 MB together."""
    queue.add(items(1000))
    with queue.transaction():
        while record := queue.take():
            queue.finish(record, {"text": "x" * 20_000})
    tracemalloc.start()
    try:
        assert sum(1 for _ in queue.records()) == 1000
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
