"""Whose job is next."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from fastnl_engine.backlog import Backlog
from fastnl_engine.planner import Job


def job(client: str | None, n: int) -> Job:
    return Job("disconnect", str(n), client=client)


def test_jobs_of_one_client_keep_their_order_whatever_others_do():
    dice = random.Random(3)
    backlog, asked, got = Backlog(), defaultdict(list), defaultdict(list)
    for n in range(2000):
        client = dice.choice(["a", "a", "a", "b", "c", None])
        asked[client].append(str(n))
        backlog.append(job(client, n))
        if dice.random() < 0.4:
            one = backlog.popleft()
            got[one.client].append(one.id)
    assert len(backlog) == len(list(backlog))
    while backlog:
        one = backlog.popleft()
        got[one.client].append(one.id)
    assert got == asked
    with pytest.raises(IndexError):
        backlog.popleft()


def test_a_client_waits_for_one_job_of_each_other_client_only():
    backlog = Backlog()
    for n in range(1000):
        backlog.append(job("greedy", n))
        backlog.append(job("greedy too", n))
    backlog.append(job("modest", 0))
    order = [backlog.popleft().client for _ in range(4)]
    assert order == ["greedy", "greedy too", "modest", "greedy"]


def test_a_client_alone_gets_everything():
    backlog = Backlog()
    for n in range(100):
        backlog.append(job("alone", n))
    assert [backlog.popleft().id for _ in range(100)] == [str(n) for n in range(100)]
    assert not backlog


def test_what_is_put_back_comes_before_the_rest_of_its_client_but_not_out_of_turn():
    backlog = Backlog()
    for n in range(100):
        backlog.append(job("a", n))
    backlog.append(job("b", 7))
    backlog.extendleft([backlog.popleft()])
    assert backlog.popleft().client == "b"
    assert [backlog.popleft().id for _ in range(100)] == [str(n) for n in range(100)]


def test_clear_leaves_nothing():
    backlog = Backlog()
    backlog.append(job("a", 1))
    backlog.extendleft([job("a", 2)])
    backlog.clear()
    assert (len(backlog), list(backlog), bool(backlog)) == (0, [], False)
    backlog.append(job("a", 3))
    assert backlog.popleft().id == "3"
