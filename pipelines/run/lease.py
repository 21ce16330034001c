"""One writer a run: a lease file with a heartbeat; correctness rests on exclusive creates."""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pipelines.run.store import RunStore
from sd_core.errors import EnvironmentFault, is_environment
from sd_core.say import Say

LEASE_FILE = "lease.json"
EXPIRY_S = 60.0
_LAST_TRY_S = 5.0  # for a store that may not answer
_RETURN_S = 0.5  # for a heartbeat that is under way, where the process is about to end


class LeaseHeldError(EnvironmentFault):
    """Another job is writing this run."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Whose lease it is; `heartbeat` is by its own clock, in seconds since 1970."""

    token: str
    host: str
    boot: str
    pid: int
    started: str
    heartbeat: float


_UNREADABLE = Holder(token="", host="?", boot="", pid=0, started="", heartbeat=0.0)


class Lease:
    """Hold a run's lease; use as a context manager.

    Waits until a crashed holder's lease expires, and says so. A holder that is still beating is
    given up on: two heartbeats apart are seen to differ, so no clocks are compared across hosts.
    A holder on this host whose process is gone is replaced at once.

    Raises:
        LeaseHeldError: another job holds the lease and is alive.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        say: Say,
        beat_s: float = 10.0,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        self._store = store
        self._say = say
        self._beat_s = beat_s
        self._expiry_s = expiry_s
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_leaving = False
        self._beaten = _now()
        self.lost = False

    def __enter__(self) -> Self:
        _held.add(self)
        try:
            while not self._store.create_exclusive(LEASE_FILE, self._content()):
                self._wait_for_expiry()
        except BaseException:  # a signal may come when it has just been taken
            self.__exit__()
            raise
        self._beaten = _now()
        self._store.fences.append(self._fence)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not any(isinstance(each, Exception) and is_environment(each) for each in error):
            self._return(None)
            return
        # The store that failed the job may not answer now either: who comes next sees us gone. And
        # Python waits for ever for a new thread that there was no memory for: so the heart's own.
        self._is_leaving = True
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST_TRY_S)

    def _return(self, patience_s: float | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(patience_s)
        self._give_back()

    def _give_back(self) -> None:
        holder = self._read()
        if holder is not None and holder.token == self._token:
            self._store.delete(LEASE_FILE)
        _held.discard(self)
        if self._fence in self._store.fences:
            self._store.fences.remove(self._fence)

    def _fence(self) -> None:
        """Before the run is changed: a job that slept may find it another's, and must not take
        that one's records for its own. Costs a read once the heart has not beaten for long."""
        if not self.lost and _now() - self._beaten > self._expiry_s / 2:
            holder = self._read()
            self.lost = holder is None or holder.token != self._token
        self.check()

    def check(self) -> None:
        """Raise `LeaseHeldError` if another job has taken the lease meanwhile."""
        if self.lost:
            raise LeaseHeldError(
                f"{self._store.root}: another job took this run over while this one was paused; "
                "nothing is lost, but this job stops here"
            )

    def _wait_for_expiry(self) -> None:
        holder = self._read()
        if holder is None:
            return
        if is_dead_here(holder):
            self._say(f"the job that held this run (pid {holder.pid}) is gone: taking over")
            self._take_from(holder)
            return
        self._say(
            f"{self._store.root} is leased to pid {holder.pid} on {holder.host}: waiting "
            f"up to {self._expiry_s:.0f} s to see whether it is alive"
        )
        deadline = time.monotonic() + self._expiry_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._beat_s / 4))
            now = self._read()
            if now is None:
                return
            if now != holder:
                raise LeaseHeldError(
                    f"{self._store.root}: pid {now.pid} on {now.host} is writing this run; wait "
                    "for it to end, stop it, or give another `output`"
                )
            if is_dead_here(holder):
                break
        self._say("the lease has expired: taking over")
        self._take_from(holder)

    def _take_from(self, holder: Holder) -> None:
        if self._read() == holder:
            self._store.delete(LEASE_FILE)

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_s):
            try:
                holder = self._read()
                if holder is None or holder.token != self._token:
                    self.lost = True
                    return
                self._store.replace(LEASE_FILE, self._content())
                self._beaten = _now()
            except Exception as error:
                # The storage may come back before the lease expires, and not every client of
                # an object store raises OSError: a heart that stops would lose a living run.
                self._say(f"the lease's heartbeat could not be written: {type(error).__name__}")
        if self._is_leaving:
            with suppress(Exception):
                self._give_back()

    def _content(self) -> bytes:
        pid = os.getpid()
        holder = Holder(
            token=self._token,
            host=socket.gethostname(),
            boot=_boot_id(),
            pid=pid,
            started=_process_start(pid),
            heartbeat=time.time(),
        )
        return json.dumps(asdict(holder)).encode()

    def _read(self) -> Holder | None:
        return read_holder(self._store)


def read_holder(store: RunStore) -> Holder | None:
    """Who holds a run's lease; None where nobody does."""
    try:
        return Holder(**json.loads(store.read_bytes(LEASE_FILE)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return _UNREADABLE


_held: set[Lease] = set()


def return_all() -> None:
    """Give back what leases this process holds, which is about to end."""
    for lease in tuple(_held):
        lease._return(_RETURN_S)


def is_dead_here(holder: Holder) -> bool:
    """Whether it was a process of this machine that is gone; False where that cannot be told."""
    if (holder.host, holder.boot) != (socket.gethostname(), _boot_id()) or not holder.boot:
        return False
    return _process_start(holder.pid) != holder.started


def _now() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _boot_id() -> str:
    """This boot and process namespace, where a pid means something; empty if it is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """The process's start time in clock ticks; empty where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
