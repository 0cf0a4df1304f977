"""fastapi-taskflow (https://pypi.org/project/fastapi-taskflow) under the workloads of axum-taskflow-bench:
`python main.py WORKLOAD TASKS PLACE` prints the figures as JSON. The place is a folder or the address of a Redis
server.

Its best documented setting: one process, a named queue that runs 64 at once, async functions; on Redis a pool that is
larger than what runs at once, since with less finished tasks are lost. What has succeeded is stored at once; the flush
of everything once a minute is left as it is.

`add_task` keeps a task in memory only, and nothing of it is stored before it has ended: what is added and not yet run
is lost with the process. So adding is measured under a name of its own, for one producer: it awaits nothing, so 64 of
them would take turns; and there is no adding in bulk. End to end is measured until all have run, and until all are
stored, as a connection of its own counts them. It runs fewer tasks than ours: the rate is the same.
"""

import asyncio
import json
import sqlite3
import sys
import time

import redis
from fastapi_taskflow import QueueConfig, TaskManager
from fastapi_taskflow.backends import RedisBackend, SqliteBackend
from fastapi_taskflow.wrapper import ManagedBackgroundTasks

PRODUCERS = 64
SLOTS = 64
# More than so many end to end are not waited for.
RUNS_MAX = 3_200
ARGUMENT = "a" * 38
LOOK_S = 0.01
PREFIX = "bench"

# Called at the first line of a task.
at_first_line = lambda: None


async def noop(_argument):
    at_first_line()


def figure(name, unit, value):
    return {"name": name, "unit": unit, "value": value}


def backend_and_count(place):
    """Its backend, and how many have succeeded there, over a connection of its own."""
    if place.startswith("redis://"):
        connection = redis.Redis.from_url(place)
        backend = RedisBackend(place, prefix=PREFIX, max_connections=4 * SLOTS)
        return backend, lambda: connection.scard(f"{PREFIX}:_index")
    path = f"{place}/tasks.db"
    backend = SqliteBackend(path)
    connection = sqlite3.connect(path, isolation_level=None)
    count = "SELECT count(*) FROM task_snapshots WHERE status = 'success'"
    return backend, lambda: connection.execute(count).fetchone()[0]


async def w1(tasks, n, _count):
    n //= 5
    begun = time.perf_counter()
    for _ in range(n):
        tasks.add_task(noop, ARGUMENT)
    rate = n / (time.perf_counter() - begun)
    return [figure("one producer, in memory only", "tasks/s", rate)]


async def w2(tasks, n, count):
    global at_first_line
    each = min(n, RUNS_MAX) // PRODUCERS
    wanted, n_run, ran_after = each * PRODUCERS, 0, None

    def run():
        nonlocal n_run, ran_after
        n_run += 1
        if n_run == wanted:
            ran_after = time.perf_counter() - begun

    at_first_line = run

    async def produce():
        for _ in range(each):
            tasks.add_task(noop, ARGUMENT)
            await asyncio.sleep(0)  # as the next request would

    begun = time.perf_counter()
    await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
    while count() < wanted:
        await asyncio.sleep(LOOK_S)
    rate = wanted / (time.perf_counter() - begun)
    return [
        figure("end to end", "tasks/s", rate),
        figure("run, not yet stored", "tasks/s", wanted / ran_after),
    ]


async def w3(tasks, _n, _count):
    global at_first_line
    began = asyncio.Queue()
    at_first_line = lambda: began.put_nowait(time.perf_counter())
    all_ms = []
    for _ in range(500):
        await asyncio.sleep(0.01)
        before = time.perf_counter()
        tasks.add_task(noop, ARGUMENT)
        all_ms.append((await began.get() - before) * 1_000)
    all_ms.sort()
    places = [("p50", 249), ("p99", 494), ("max", 499)]
    return [figure(f"pickup {name}", "ms", all_ms[at]) for name, at in places]


async def main():
    workload, n, place = sys.argv[1:]
    measure = {"w1": w1, "w2": w2, "w3": w3}.get(workload)
    if measure is None:
        raise SystemExit(f"{workload!r} is not measured here")
    backend, count = backend_and_count(place)
    manager = TaskManager(
        snapshot_backend=backend,
        queues={"default": QueueConfig(concurrency=SLOTS)},
    )
    manager.task()(noop)
    await manager.startup()
    print(json.dumps(await measure(ManagedBackgroundTasks(manager), int(n), count)), flush=True)
    # What `w1` added need not run.
    await manager.shutdown()


asyncio.run(main())
