"""The request-level simulation of a table policy as one compiled loop: the same answers, bit for bit.

What `sim/requests.py` does with the daemon's objects is done here with arrays: the same numbers in the same
order of operations, so that the readable loop is this one's oracle (tests/test_requests.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..controller.scheduler import DEFAULT_PRIORITY, Slowdown
from ..model_zoo.profile import Costs
from ..policies.lookup import Lookup
from .kernels import COMPILED, njit

if TYPE_CHECKING:
    from .workload import Workload

__all__ = ["COMPILED", "World", "run"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Outcomes = tuple[NDArray[np.uint8], NDArray[np.int8], Floats, Floats, int]
OK, LATE, SHED, EXPIRED, BUSY = range(5)


class World(NamedTuple):
    """Slow-down, budget and cap as steps: a value holds from its time on. Infinity: no limit.

    `front_s` is what each run takes besides, which tells nothing of the device's speed. After a rest of r
    seconds a run takes 1 + `rest_share` (1 − 2^(−r / `rest_half_life_s`)) times as long.
    """

    slow_s: Floats
    slow: Floats
    budget_s: Floats
    budget_ms: Floats
    max_phi: Floats
    interval_s: float
    front_s: float
    rest_share: float
    rest_half_life_s: float


class _Filter(NamedTuple):
    rise: float
    fall: float
    half_life_s: float


def run(
    workload: Workload,
    costs: Costs,
    typical_ms: list[float],
    table: Lookup,
    service_ms: Floats,
    world: World,
    max_requests: int,
    slowdown: Slowdown,
) -> Outcomes:
    """Return (outcome, phi, began_s, done_s, switches) of all requests."""
    requests = len(workload)
    outcome, phi = np.zeros(requests, np.uint8), np.full(requests, -1, np.int8)
    began_s, done_s = np.full(requests, np.nan), np.full(requests, np.nan)
    rank = np.where(workload.priority == 0, DEFAULT_PRIORITY, workload.priority)
    deadline_s = workload.arrived_s + workload.deadline_ms / 1e3
    switches = _run(
        workload.arrived_s,
        deadline_s,
        rank,
        service_ms,
        costs.stall_ms,
        costs.need_ms,
        np.array(typical_ms),
        table.edges_ms,
        table.table,
        world,
        _Filter(slowdown.rise, slowdown.fall, slowdown.half_life_s),
        max_requests,
        outcome,
        phi,
        began_s,
        done_s,
    )
    return outcome, phi, began_s, done_s, int(switches)


@njit(cache=True, nogil=True)
def _factor_at(factor: float, seen_s: float, now_s: float, half_life_s: float) -> float:
    """Return `Slowdown.at`."""
    left: float = np.exp2(-max(0.0, now_s - seen_s) / half_life_s)
    return 1.0 + (factor - 1.0) * left


@njit(cache=True, nogil=True)
def _decide(
    table: NDArray[np.uint8],
    edges: Floats,
    need: Floats,
    active: int,
    budget: float,
    cap: float,
    slack: float,
) -> int:
    """Return what `Controller.step` decides with a table."""
    budget = budget if budget > 0 else 0.0
    phi = int(table[np.searchsorted(edges, budget, side="right"), active])
    if phi > cap:
        phi = int(cap)
    if need[active, phi] > slack:
        while phi > 0:
            phi -= 1
            if need[active, phi] <= slack:
                break
    return phi


@njit(cache=True, nogil=True)
def _drop_expired(
    queue: Numbers,
    first: int,
    waiting: int,
    deadline: Floats,
    now: float,
    outcome: NDArray[np.uint8],
) -> int:
    """Mark what has expired, close up the rest, and return how many still wait."""
    kept = 0
    for place in range(first, first + waiting):
        number = queue[place]
        if deadline[number] <= now:
            outcome[number] = EXPIRED
        else:
            queue[first + kept] = number
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _place_of(
    number: int, queue: Numbers, first: int, waiting: int, deadline: Floats, rank: Numbers
) -> int:
    """Return where a request belongs: by rank, then deadline, then order of arrival."""
    here = first + waiting
    while here > first:
        other = queue[here - 1]
        later = rank[other] == rank[number] and deadline[other] > deadline[number]
        if not (later or rank[other] > rank[number]):
            break
        here -= 1
    return here


@njit(cache=True, nogil=True)
def _room(
    head: int,
    queue: Numbers,
    first: int,
    waiting: int,
    deadline: Floats,
    rank: Numbers,
    now: float,
    quickest: float,
) -> float:
    """Return `Scheduler._room_ms`: what a run may take for those of its rank that wait behind it."""
    room, work = np.inf, 0.0
    for place in range(first, first + waiting):
        number = queue[place]
        if rank[number] != rank[head]:
            break
        left = (deadline[number] - now) * 1e3 - work - quickest
        if left >= quickest:
            room = min(room, left)
            work += quickest
    return room


@njit(cache=True, nogil=True)
def _run(
    arrived: Floats,
    deadline: Floats,
    rank: Numbers,
    service: Floats,
    stall: Floats,
    need: Floats,
    typical: Floats,
    edges: Floats,
    table: NDArray[np.uint8],
    world: World,
    filter: _Filter,
    max_requests: int,
    outcome: NDArray[np.uint8],
    phi: NDArray[np.int8],
    began: Floats,
    done: Floats,
) -> int:
    requests, quickest = len(arrived), typical.min()
    queue = np.empty(2 * (max_requests + 1), np.int64)  # queue[first] runs next
    first = waiting = switches = active = slow_at = budget_at = number = 0
    running, ends = -1, np.inf
    factor, seen, slow, read = 1.0, 0.0, 1.0, -np.inf
    while number < requests or running >= 0:
        arrives = number < requests and arrived[number] < ends
        now = arrived[number] if arrives else ends
        if not arrives:  # the run under way ends: what it took is noted before anything else
            done[running] = now
            outcome[running] = LATE if now > deadline[running] else OK
            measured = (now - began[running] - world.front_s) * 1e3
            ratio = min(max(measured / typical[phi[running]], 0.5), 50.0)
            before = _factor_at(factor, seen, now, filter.half_life_s)
            factor = before + (filter.rise if ratio > before else filter.fall) * (ratio - before)
            seen = now
        tick = math.floor(now / world.interval_s) * world.interval_s
        if tick > read:
            read, slow = tick, _factor_at(factor, seen, tick, filter.half_life_s)
            while budget_at + 1 < len(world.budget_s) and world.budget_s[budget_at + 1] <= tick:
                budget_at += 1
        if not arrives:
            slow = _factor_at(factor, seen, now, filter.half_life_s)
            running, ends = -1, np.inf
        else:
            waiting = _drop_expired(queue, first, waiting, deadline, now, outcome)
            here = _place_of(number, queue, first, waiting, deadline, rank)
            wait = 0.0
            if running >= 0:
                wait = max(0.0, typical[phi[running]] * slow - (now - began[running]) * 1e3)
            wait += (here - first) * quickest * slow
            full = waiting >= max_requests
            if full and rank[queue[first + waiting - 1]] <= rank[number]:
                outcome[number] = BUSY
            elif wait + quickest * slow > (deadline[number] - now) * 1e3:
                outcome[number] = SHED
            else:
                if full:
                    waiting -= 1
                    outcome[queue[first + waiting]] = BUSY
                for place in range(first + waiting, here, -1):
                    queue[place] = queue[place - 1]
                queue[here] = number
                waiting += 1
            number += 1
        while running < 0 and waiting > 0:
            waiting = _drop_expired(queue, first, waiting, deadline, now, outcome)
            if waiting == 0:
                break
            head = queue[first]
            first += 1
            waiting -= 1
            slack = (deadline[head] - now) * 1e3
            if quickest * slow > slack:
                outcome[head] = SHED
                continue
            room = _room(head, queue, first, waiting, deadline, rank, now, quickest * slow)
            slack = min(slack, room) / slow
            budget, limit = slack, world.budget_ms[budget_at]
            if limit < np.inf:
                budget = min(budget, limit / slow)
            cap = world.max_phi[budget_at]
            chosen = _decide(table, edges, need, active, budget, cap, slack)
            while slow_at + 1 < len(world.slow_s) and world.slow_s[slow_at + 1] <= now:
                slow_at += 1
            takes = (service[head, chosen] + stall[active, chosen]) * world.slow[slow_at]
            if world.rest_share:
                fresh = np.exp2(-max(0.0, now - seen) / world.rest_half_life_s)
                takes *= 1 + world.rest_share * (1 - fresh)
            running, ends = head, now + (takes / 1e3 + world.front_s)
            phi[head], began[head] = chosen, now
            switches += chosen != active
            active = chosen
        if first > max_requests:  # back to the array's beginning
            for place in range(waiting):
                queue[place] = queue[first + place]
            first = 0
    return switches
