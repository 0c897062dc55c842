"""What waits to be purged: each key once, hard before soft, everything when it is too much, and marks that never lie."""

from __future__ import annotations

import random

from b1.purge.waiting import Waiting


def waiting(*, limit: int = 100, batch: int = 3, knows_soft: bool = True) -> Waiting:
    return Waiting(limit=limit, batch=batch, knows_soft=knows_soft)


def begun(queue: Waiting) -> tuple[tuple[str, ...], bool, bool]:
    batch = queue.begin()
    assert batch is not None
    return batch.keys, batch.soft, batch.is_all


def test_a_key_waits_once_however_often_it_is_put() -> None:
    queue = waiting()
    for _ in range(5):
        queue.put(["a", "b", "a"], 0.0, soft=False)
    assert len(queue) == 2
    assert begun(queue) == (("a", "b"), False, False)


def test_a_batch_has_no_more_keys_than_one_call_may_have() -> None:
    queue = waiting(batch=3)
    queue.put("abcdefgh", 0.0, soft=False)
    sizes = []
    while (batch := queue.begin()) is not None:
        sizes.append(len(batch.keys))
        queue.settle()
    assert sizes == [3, 3, 2]


def test_what_may_not_be_served_goes_before_what_may() -> None:
    queue = waiting()
    queue.put(["soft"], 0.0, soft=True)
    queue.put(["hard"], 0.0, soft=False)
    assert begun(queue) == (("hard",), False, False)
    queue.settle()
    assert begun(queue) == (("soft",), True, False)


def test_a_soft_key_that_is_asked_for_hard_becomes_hard_and_never_soft_again() -> None:
    queue = waiting()
    for soft in (True, False, True):
        queue.put(["a"], 0.0, soft=soft)
    assert begun(queue) == (("a",), False, False)


def test_where_nothing_is_soft_all_keys_travel_together() -> None:
    queue = waiting(knows_soft=False)
    queue.put(["a"], 0.0, soft=True)
    queue.put(["b"], 0.0, soft=False)
    assert begun(queue) == (("a", "b"), False, False)


def test_too_many_keys_become_everything_and_none_is_forgotten() -> None:
    queue = waiting(limit=3)
    queue.put("abcd", 0.0, soft=True)
    assert (len(queue), queue.collapsed) == (1, 1)
    queue.put(["e"], 0.0, soft=False)
    assert begun(queue) == ((), False, True)
    queue.settle()
    assert queue.is_empty


def test_a_batch_that_failed_is_the_same_message_again() -> None:
    queue = waiting()
    queue.put(["a"], 0.0, soft=False)
    first = queue.begin()
    queue.put(["b"], 0.0, soft=False)
    assert queue.begin() is first


def test_a_batch_is_halved_down_to_the_key_that_is_disliked() -> None:
    queue = waiting(batch=8)
    queue.put("abcdefgh", 0.0, soft=False)
    refused: list[str] = []
    taken: list[str] = []
    calls = 0
    while (batch := queue.begin()) is not None:
        calls += 1
        if "e" not in batch.keys:
            taken += batch.keys
            queue.settle()
        elif not queue.halve():
            refused += batch.keys
            queue.settle()
    assert (refused, sorted(taken)) == (["e"], list("abcdfgh"))
    assert calls <= 8


def test_halving_keeps_what_was_put_meanwhile_hard() -> None:
    queue = waiting(batch=2)
    queue.put("ab", 0.0, soft=False)
    queue.begin()
    queue.put(["b"], 0.0, soft=True)
    assert queue.halve()
    queue.settle()
    assert begun(queue) == (("b",), False, False)


def test_a_key_that_is_too_old_is_given_up_wherever_it_is() -> None:
    queue = waiting(batch=1)
    queue.put(["a", "b"], 0.0, soft=False)
    queue.begin()
    queue.put(["c"], 10.0, soft=False)
    assert queue.expire(5.0) == 2
    assert begun(queue) == (("c",), False, False)


def test_a_mark_is_settled_when_all_that_was_put_before_it_is_and_never_earlier() -> None:
    chance = random.Random(7)
    for _ in range(200):
        queue = waiting(limit=12, batch=3)
        put: dict[int, set[str]] = {}
        done: dict[str, int] = {}  # the key, and the number of puts at the last delivery that began after them
        began = 0
        for _ in range(40):
            action = chance.random()
            if action < 0.5:
                keys = {chance.choice("abcdefghijklmnopq") for _ in range(chance.randrange(1, 4))}
                put[queue.put(sorted(keys), 0.0, soft=chance.random() < 0.3)] = keys
            elif action < 0.6:
                queue.halve()
            else:
                if queue._flight is None:
                    began = queue.mark
                batch = queue.begin()
                if batch is not None and action > 0.7:
                    queue.settle()
                    for key in "abcdefghijklmnopq" if batch.is_all else batch.keys:
                        done[key] = began
            for mark, keys in put.items():
                if mark <= queue.settled:
                    assert all(done.get(key, 0) >= mark for key in keys)
        while queue.begin() is not None:
            queue.settle()
        assert queue.settled == queue.mark
