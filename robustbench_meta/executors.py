"""Where units of work run: in this process, in N processes, on a Ray cluster; the same units, the same results.

A unit is a picklable function and its arguments; it is called as function(cargo, *arguments). The cargo is what all
units share: each worker is sent it once. Workers write nothing: what a unit returns goes back to the driver.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from robustbench_meta.types import InputError

MOST_WORKERS = 1024
ALONE = "use --workers 1"
CONNECT_SECONDS = 4.0
RETRIES = 3  # of a unit whose worker was lost


class Cargo(Protocol):
    """What the units of a run share."""

    @property
    def kind(self) -> str:
        """Of device that it is meant for: cpu or cuda."""
        ...

    def packed(self) -> Cargo:
        """Return it ready to be pickled, with its tensors on the CPU."""
        ...

    def unpacked(self, device: str) -> Cargo:
        """Return it ready to be used on `device`; called once by each worker."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What the unit of that ticket returned, or in one line why it returned nothing."""

    ticket: int
    value: Any = None
    error: str = ""


class Executor(Protocol):
    """Runs units, `slots` of them at once."""

    @property
    def slots(self) -> int: ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Take a unit and return its ticket."""
        ...

    def wait(self) -> Outcome:
        """Wait until any of the units taken has ended; each is given back once."""
        ...


class Place(Protocol):
    """A frozen dataclass that says where a run's units go."""

    def open(self, cargo: Cargo) -> AbstractContextManager[Executor]:
        """Give an executor whose units get `cargo`; on leaving, what still runs is stopped."""
        ...


def choose_place(workers: int = 1, executor: str = "local", address: str | None = None, device: str = "auto") -> Place:
    """Turn the options of a run into a place."""
    if executor not in ("local", "ray"):
        raise InputError(f"executor: {executor!r} is not one of local, ray")
    if executor == "ray":
        if workers != 1:
            raise InputError(f"workers: {workers}; with executor 'ray' the cluster has as many as it has CPUs or GPUs")
        return OnRay(address or "auto", device)
    if address is not None:
        raise InputError(f"address: {address!r} belongs to executor 'ray'; give that too")
    _check_workers(workers)
    return Here() if workers == 1 else Processes(workers)


@dataclass(frozen=True)
class Here:
    """This process: one unit after another."""

    @contextmanager
    def open(self, cargo: Cargo) -> Iterator[Executor]:
        yield InProcess(cargo)


@dataclass
class InProcess:
    """Runs each unit when its outcome is asked for."""

    cargo: Any
    slots: int = 1
    taken: int = 0
    waiting: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = field(default_factory=deque)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        self.taken += 1
        self.waiting.append((self.taken, function, arguments))
        return self.taken

    def wait(self) -> Outcome:
        ticket, function, arguments = self.waiting.popleft()
        return _outcome(ticket, function, self.cargo, *arguments)


@dataclass(frozen=True)
class Processes:
    """`count` processes on this machine, started afresh; where there are several GPUs, they are dealt out in turn.

    Each takes its share of this process's threads. They end with this process, however it ends.
    """

    count: int

    def __post_init__(self) -> None:
        _check_workers(self.count)

    @contextmanager
    def open(self, cargo: Cargo) -> Iterator[Executor]:
        try:
            packed = pickle.dumps(cargo.packed())
        except Exception as error:  # whatever an object of the user's raises
            raise InputError(f"workers: the plan cannot be sent to another process ({_said(error)}); {ALONE}") from None
        gpus = torch.cuda.device_count() if cargo.kind == "cuda" else 0
        pool = _Pool(packed, self.count, max(1, torch.get_num_threads() // self.count), gpus)
        try:
            yield pool
        finally:
            pool.stop()


@dataclass
class _Unit:
    ticket: int
    packed: bytes
    lost: int = 0  # workers that ended while they ran it


@dataclass
class _Worker:
    process: Any
    connection: Connection
    ready: bool = False  # it has the cargo
    unit: _Unit | None = None


class _Pool:
    """Worker processes, started with the first unit; one that ends is replaced, and its unit is run again."""

    def __init__(self, packed: bytes, slots: int, threads: int, gpus: int) -> None:
        self.packed, self.slots, self.threads, self.gpus = packed, slots, threads, gpus
        self.workers: list[_Worker] = []
        self.waiting: deque[_Unit] = deque()
        self.taken = self.stillborn = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        self.taken += 1
        self.waiting.append(_Unit(self.taken, pickle.dumps((function, arguments))))
        busy = sum(worker.unit is not None for worker in self.workers)
        while len(self.workers) < min(self.slots, busy + len(self.waiting)):
            self.workers.append(self._started(len(self.workers)))
        self._feed()
        return self.taken

    def wait(self) -> Outcome:
        while True:
            self._feed()
            wait([handle for worker in self.workers for handle in (worker.connection, worker.process.sentinel)])
            for number, worker in enumerate(self.workers):
                if outcome := self._heard(number, worker):
                    return outcome

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()
        self.workers.clear()

    def _started(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        device = f"cuda:{number % self.gpus}" if self.gpus else "cpu"
        process = context.Process(target=_serve, args=(theirs, self.threads, device), name=f"worker {number}")
        # Ctrl-C reaches every process of a terminal; only the driver is to heed it, from the first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        # A thread of its own, since a worker reads no further than its pipe's buffer until it has imported torch.
        threading.Thread(target=_send, args=(ours, self.packed), daemon=True).start()
        return _Worker(process, ours)

    def _feed(self) -> None:
        for worker in self.workers:
            if self.waiting and worker.ready and worker.unit is None:
                worker.unit = self.waiting.popleft()
                _send(worker.connection, worker.unit.packed)

    def _heard(self, number: int, worker: _Worker) -> Outcome | None:
        """Read what a worker has to say, if anything; give the outcome of its unit once there is one."""
        try:
            if not worker.connection.poll():
                # What it said before it ended comes first.
                return None if worker.process.is_alive() or worker.connection.poll() else self._lost(number, worker)
            said = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._lost(number, worker)
        if not worker.ready:
            if said.error:
                raise InputError(f"workers: a worker cannot load the plan ({said.error}); {ALONE}")
            worker.ready, self.stillborn = True, 0
            return None
        unit, worker.unit = worker.unit, None
        return None if unit is None else Outcome(unit.ticket, said.value, said.error)

    def _lost(self, number: int, worker: _Worker) -> Outcome | None:
        """Put a new worker in the place of one that ended; its unit goes first, unless it cost too many workers."""
        worker.process.join()
        worker.connection.close()
        how = _ended(worker.process.exitcode)
        if not worker.ready:
            self.stillborn += 1
            if self.stillborn > RETRIES and worker.process.exitcode < 0:
                raise OSError(f"workers: {how} before it could begin, {self.stillborn} times in a row")
            if worker.process.exitcode >= 0:
                raise InputError(
                    f"workers: {how} before it could begin; a script that uses workers keeps its calls below"
                    f" `if __name__ == '__main__':`; {ALONE}"
                )
        self.workers[number] = self._started(number)
        if (unit := worker.unit) is None:
            return None
        unit.lost += 1
        if unit.lost > RETRIES:
            return Outcome(unit.ticket, error=f"{how} while it ran this, {unit.lost} times")
        self.waiting.appendleft(unit)
        return None


def _serve(connection: Connection, threads: int, device: str) -> None:
    """Be a worker: load the cargo, then answer each unit with its outcome until the driver is gone."""
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        packed = connection.recv_bytes()
        loaded = _outcome(0, _unpacked, packed, device)
        connection.send(Outcome(0, error=loaded.error))
        while not loaded.error:
            unit = connection.recv_bytes()
            connection.send_bytes(_packed_outcome(_outcome(0, _call, loaded.value, unit)))


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    wait([driver.sentinel])
    os._exit(1)


def _unpacked(packed: bytes, device: str) -> Cargo:
    cargo: Cargo = pickle.loads(packed)
    return cargo.unpacked(device)


def _call(cargo: Cargo, packed: bytes) -> Any:
    function, arguments = pickle.loads(packed)
    return function(cargo, *arguments)


def _packed_outcome(outcome: Outcome) -> bytes:
    try:
        return pickle.dumps(outcome)
    except Exception as error:
        return pickle.dumps(Outcome(0, error=f"what it returned cannot be sent back ({_said(error)})"))


def _send(connection: Connection, packed: bytes) -> None:
    with suppress(OSError):  # a worker that is gone is noticed where its answer is awaited
        connection.send_bytes(packed)


@dataclass(frozen=True)
class OnRay:
    """A Ray cluster that is already running: one unit a CPU, or a GPU where it has any and `device` allows it.

    Ray sends the cargo through its object store and runs the unit of a lost worker again, at most 3 times.
    """

    address: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device: {self.device!r} is not one of auto, cpu, cuda")
        if not find_spec("ray"):
            raise InputError("executor: 'ray' needs Ray, which is not installed; `pip install robustbench_meta[ray]`")

    @contextmanager
    def open(self, cargo: Cargo) -> Iterator[Executor]:
        import ray

        ours = not ray.is_initialized()
        if ours:
            _connect(self.address)
        try:
            gpus = ray.cluster_resources().get("GPU", 0) > 0 and self.device != "cpu"
            if self.device == "cuda" and not gpus:
                raise InputError("device: 'cuda'; the Ray cluster has no GPU")
            run = _RayRun(_put(cargo), "GPU" if gpus else "CPU")
            try:
                yield run
            finally:
                run.stop()
        finally:
            if ours:
                ray.shutdown()


class _RayRun:
    """Units in flight on a cluster."""

    def __init__(self, cargo: Any, resource: str) -> None:
        import ray

        gpu = resource == "GPU"
        options: dict[str, Any] = {"max_retries": RETRIES, "max_calls": 0, "num_cpus": 1, "num_gpus": int(gpu)}
        self.remote = ray.remote(**options)(_ray_unit)
        self.cargo, self.resource, self.taken = cargo, resource, 0
        self.flying: dict[Any, int] = {}

    @property
    def slots(self) -> int:
        import ray

        return max(1, int(ray.cluster_resources().get(self.resource, 1)))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        self.taken += 1
        device = "cuda" if self.resource == "GPU" else "cpu"
        # In a list, so that Ray hands over the reference and a worker that has the cargo need not load it again.
        self.flying[self.remote.remote([self.cargo], device, function, arguments)] = self.taken
        return self.taken

    def wait(self) -> Outcome:
        import ray

        try:
            (done,), _ = ray.wait(list(self.flying), num_returns=1)
        except ray.exceptions.RayError as error:
            raise OSError(f"executor: the Ray cluster is gone ({_said(error)})") from None
        ticket = self.flying.pop(done)
        try:
            found: Outcome = ray.get(done)
        except ray.exceptions.RayTaskError as error:  # as where a worker lacks a module that the unit needs
            return Outcome(ticket, error=_said(error.cause))
        except ray.exceptions.RayError as error:
            return Outcome(ticket, error=f"the Ray worker was lost {RETRIES + 1} times ({_said(error)})")
        return Outcome(ticket, found.value, found.error)

    def stop(self) -> None:
        import ray

        for flying in self.flying:
            with suppress(Exception):  # the cluster may be what went away
                ray.cancel(flying, force=True)


_LOADED: dict[str, Outcome] = {}  # in a Ray worker, which serves many units: the cargo by the name of its object


def _ray_unit(boxed: list[Any], device: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    import ray

    name = boxed[0].hex()
    if name not in _LOADED:
        torch.set_num_threads(1)
        _LOADED.clear()
        _LOADED[name] = _outcome(0, _unpacked, ray.get(boxed[0]), device)
    loaded = _LOADED[name]
    return loaded if loaded.error else _outcome(0, function, loaded.value, *arguments)


def _connect(address: str) -> None:
    import ray

    try:
        if address != "auto":
            # Ray itself waits for minutes, and says more than a line meanwhile.
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError: whatever stands in the way
        raise InputError(
            f"address: no Ray cluster answers at {address!r} ({_said(error)}); start one with `ray start --head`"
        ) from None


def _put(cargo: Cargo) -> Any:
    import ray

    try:
        return ray.put(ray.cloudpickle.dumps(cargo.packed()))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise InputError(f"executor: the plan cannot be sent through Ray ({_said(error)})") from None


def _outcome(ticket: int, function: Callable[..., Any], *arguments: Any) -> Outcome:
    try:
        return Outcome(ticket, function(*arguments))
    except Exception as error:
        return Outcome(ticket, error=_said(error))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no message'}"


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"a worker process was killed ({signal.Signals(-status).name})"
    return f"a worker process ended with status {status}"


def _check_workers(count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_WORKERS:
        raise InputError(f"workers: {count!r} is not a whole number from 1 to {MOST_WORKERS}")
