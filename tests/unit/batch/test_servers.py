"""Which server takes the next request, and which are left alone."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from phi_vision.batch.servers import MAX_BACKOFF_S, MAX_TOLD_WAIT_S, Server, Servers, Unavailable
from phi_vision.batch.work import TryLater
from phi_vision.client.exchange import Endpoint


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def servers(count: int, clock: Clock | None = None) -> Servers:
    return Servers([Endpoint(f"http://{name}/v1") for name in "abcdefgh"[:count]], clock or Clock())


def leave(them: Servers, server: Server, **error: object) -> None:
    """A request of this server comes back so."""
    with them.take([other for other in them.all if other is not server]) as taken:
        assert taken is server
        them.leave(server, Unavailable("is gone", **error))  # type: ignore[arg-type]


def refusal(them: Servers) -> TryLater:
    with pytest.raises(TryLater) as raised, them.take():
        pass
    return raised.value


def test_idle_servers_take_turns() -> None:
    them = servers(3)
    taken = []
    for _ in range(6):
        with them.take() as server:
            taken.append(server)
    assert taken == [*them.all, *them.all]
    assert [server.in_flight for server in them.all] == [0, 0, 0]


def test_the_one_with_the_fewest_in_flight_is_next() -> None:
    them = servers(3)
    a, b, c = them.all
    with ExitStack() as held:
        for server in (a, b, c):
            assert held.enter_context(them.take()) is server
        short = ExitStack()
        assert short.enter_context(them.take()) is a
        assert held.enter_context(them.take()) is b
        short.close()
        assert held.enter_context(them.take()) in (a, c)
        assert held.enter_context(them.take()) in (a, c)
        assert [server.in_flight for server in them.all] == [2, 2, 2]


def test_one_that_is_left_out_is_not_asked() -> None:
    them = servers(2)
    for _ in range(3):
        with them.take([them.all[0]]) as server:
            assert server is them.all[1]
    with pytest.raises(TryLater), them.take(them.all):
        pass


def test_requests_are_shared_by_how_many_each_takes() -> None:
    clock = Clock()
    them = servers(2, clock)
    large, small = them.all
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(them.take([large]))
        leave(them, small, is_full=True)
        for _ in range(12):
            held.enter_context(them.take([small]))
        leave(them, large, is_full=True)
    assert (large.allowance, small.allowance) == (12, 4)
    clock.now_s += 1
    them.answered(large)
    them.answered(small)
    with ExitStack() as held:
        for _ in range(16):
            held.enter_context(them.take())
        assert (large.in_flight, small.in_flight) == (12, 4)


def test_a_server_that_has_never_been_full_is_taken_for_the_largest() -> None:
    clock = Clock()
    them = servers(2, clock)
    full = them.all[0]
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(them.take([them.all[1]]))
        leave(them, full, is_full=True)
    clock.now_s += 1
    them.answered(full)
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(them.take())
        assert [server.in_flight for server in them.all] == [4, 4]


def test_one_that_is_down_is_left_alone_twice_as_long_each_time() -> None:
    clock = Clock()
    them = servers(1, clock)
    waits_s = []
    for _ in range(9):
        leave(them, them.all[0])
        later = refusal(them)
        waits_s.append(later.wait_s)
        assert str(later) == "http://a/v1 is gone" and not later.is_overload
        clock.now_s += later.wait_s
    assert waits_s == [1, 2, 4, 8, 16, 32, *[MAX_BACKOFF_S] * 3]
    with them.take() as server:
        them.answered(server)
    leave(them, them.all[0])
    assert refusal(them).wait_s == 1


def test_it_is_left_alone_as_long_as_it_says() -> None:
    clock = Clock()
    them = servers(1, clock)
    leave(them, them.all[0], wait_s=17.0, is_full=True)
    clock.now_s += 7
    later = refusal(them)
    assert later.wait_s == 10 and later.is_overload
    clock.now_s += 10
    leave(them, them.all[0], wait_s=9e6)
    assert refusal(them).wait_s == MAX_TOLD_WAIT_S


def test_many_that_meet_one_outage_count_once() -> None:
    them = servers(1)
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(them.take())
        for _ in range(8):
            them.leave(them.all[0], Unavailable("is gone"))
    assert refusal(them).wait_s == 1


def test_the_others_go_on() -> None:
    them = servers(3)
    leave(them, them.all[1])
    for _ in range(4):
        with them.take() as server:
            assert server is not them.all[1]


def test_all_reasons_are_named_and_the_shortest_wait_counts() -> None:
    them = servers(3)
    leave(them, them.all[0], wait_s=30.0)
    leave(them, them.all[1], wait_s=20.0, is_full=True)
    leave(them, them.all[2], wait_s=40.0)
    later = refusal(them)
    assert str(later) == "http://a/v1 is gone; http://b/v1 is gone; http://c/v1 is gone"
    assert later.wait_s == 20 and later.is_overload


def test_what_is_over_is_not_named() -> None:
    clock = Clock()
    them = servers(2, clock)
    leave(them, them.all[0], wait_s=5.0, is_full=True)
    clock.now_s += 5
    leave(them, them.all[1], wait_s=5.0)
    with them.take(), pytest.raises(TryLater) as raised, them.take():
        pass  # the first is on trial
    assert str(raised.value) == "http://a/v1 is gone; http://b/v1 is gone" and raised.value.wait_s == 1
    with them.take() as server:
        them.answered(server)
    with pytest.raises(TryLater) as raised, them.take([them.all[0]]):
        pass
    assert "http://b/v1 is gone" in str(raised.value)


def test_one_request_tries_a_server_that_was_gone() -> None:
    clock = Clock()
    them = servers(2, clock)
    gone, other = them.all
    leave(them, gone)
    clock.now_s += 1
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(them.take())
        assert (gone.in_flight, other.in_flight) == (1, 2)
        them.answered(gone)
        for _ in range(3):
            held.enter_context(them.take())
        assert (gone.in_flight, other.in_flight) == (3, 3)


def test_a_trial_that_ends_without_an_answer_leaves_room_for_the_next() -> None:
    clock = Clock()
    them = servers(1, clock)
    leave(them, them.all[0])
    clock.now_s += 1
    for _ in range(2):
        with them.take():
            pass  # broken off
