"""A trainer in a process of its own: started, watched and ended by the agent. No torch here.

A trainer of several ranks is several processes that live and die together: when one ends, hangs or
hangs up, all are killed and started again from the agent's state (docs/ranks.md).

Threads: everything belongs to the agent's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from farflung.config.run import RunSpec, spec_bytes
from farflung.errors import ConfigError, FarflungError, MismatchError, ProtocolError
from farflung.events import Emit
from farflung.ids import NodePhase
from farflung.inner.channel import (
    ENV_DATA,
    ENV_GENESIS,
    ENV_SOCKET,
    ENV_SPEC,
    ENV_STORE,
    ENV_THREADS,
    LENGTH,
    TRAINER_PROTOCOL_VERSION,
    AcceptAttach,
    Amended,
    Attach,
    Done,
    Entry,
    InnerLoaded,
    InnerSaved,
    Land,
    Landing,
    LoadInner,
    Progress,
    RefuseAttach,
    Reset,
    SaveInner,
    Shutdown,
    StartWork,
    StopEarly,
    Work,
    WorkReport,
    check_frozen,
    check_layout,
    check_version,
    decode_from_trainer,
    encode,
    frame_length,
)
from farflung.inner.seam import SharedState
from farflung.inner.shards import MOST_RANKS, check_rows
from farflung.outer.layout import Layout
from farflung.tasks import Tasks, first_ended
from farflung.trainers.link import READY, TrainerLink
from farflung.trainers.port import TrainerDied
from farflung.trainers.rank_sockets import RankSockets

START_S = 900.0
"""From the start of the program to its attach(): imports, compiling, a large model."""
POLITE_S = 5.0
"""From Close to SIGTERM, and from SIGTERM to SIGKILL."""
LOOK_S = 1.0
"""How often it is looked whether a trainer of several ranks makes steps."""
HUNG_FLOORS, HUNG_STEPS = 3.0, 30.0
"""Without a step for so many `swarm.progress_s`, and for the time of so many steps, it hangs."""
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", ENV_STORE)
_PATH_CAP = 100
_TAIL_BYTES = 16_384
_TRACEBACK = "Traceback (most recent call last)"


class ProcessTrainer:
    """TrainerPort over a child process that calls `farflung.attach`."""

    has_inner_state = True  # as far as it knows; `save_inner` may say no

    def __init__(
        self,
        shared: SharedState,
        spec: RunSpec,
        *,
        layout: Layout,
        program: Sequence[str],
        data_dir: Path,
        log_path: Path,
        emit: Emit,
        env: Mapping[str, str] | None = None,
        ranks: int = 1,
        gpus: Sequence[str] = (),
    ) -> None:
        """`env` is added to this process's own. The program's output goes to `log_path`.

        `ranks`: processes to start; with one the program may start more itself (torchrun).
        `gpus`: which the program may use; empty: as it finds them.
        """
        self.shared = shared
        self._spec = spec
        self._layout: tuple[Entry, ...] = tuple((e.name, tuple(e.shape)) for e in layout.entries)
        self._frozen = layout.frozen
        self._program = tuple(program)
        self._data_dir = data_dir
        self._log_path = log_path
        self._env = dict(env or {})
        self._ranks = ranks
        self._gpus = tuple(gpus)
        self._folder: Path | None = None
        self._processes: list[asyncio.subprocess.Process] = []
        """In the order of ranks."""
        self._followers: list[TrainerLink] = []
        """Of the ranks behind the leader: nothing is said on them, they only hang up."""
        self._tasks = Tasks(emit, self._unwatched)
        self._link: TrainerLink | None = None
        self._lease_serial = 0
        self._log_starts: dict[int, int] = {}
        self._steps_before = 0
        self._progress = Progress(steps=0, steps_per_s=0.0, phase=NodePhase.LOADING)
        self._heard_s = 0.0
        """When the trainer last told of its steps."""
        self._failure = ""
        self._failed_at = 0
        """Steps when it failed."""

    # ---- TrainerPort -----------------------------------------------------------------------

    @property
    def steps(self) -> int:
        return self._steps_before + self._progress.steps

    @property
    def steps_per_s(self) -> float:
        return self._progress.steps_per_s

    @property
    def phase(self) -> NodePhase:
        """A trainer that owes an answer is not waiting: it may be suspended."""
        said = self._progress.phase
        owes = self._link is not None and self._link.busy and said == NodePhase.WAITING
        return NodePhase.TRAINING if owes else said

    @property
    def failure(self) -> str:
        return self._failure if self.steps == self._failed_at else ""

    async def start(self) -> None:
        await self._end(polite=False)
        self._steps_before, speed = self.steps, self.steps_per_s
        self._progress = Progress(steps=0, steps_per_s=speed, phase=NodePhase.LOADING)
        try:
            link = await self._launch()
            ready = link.expect(READY)
            self._tasks.start(self._watch(self._processes, link), "watch the trainer")
            if self._followers:
                self._tasks.start(self._watch_steps(link), "watch the trainer's steps")
            await ready
        except BaseException as error:
            if isinstance(error, TrainerDied):
                self._failed(str(error))
            await self._end(polite=False)
            raise

    def amend(self, spec: RunSpec) -> None:
        if spec == self._spec:
            return
        self._spec = spec  # also for the next start
        if self._link is not None:
            self._link.send(Amended(spec=spec_bytes(spec)))

    async def train(self, lease: Work) -> WorkReport:
        link = self._need_link()
        serial = link.next_serial()
        self._lease_serial = serial
        try:
            answer = await link.ask(StartWork(serial=serial, lease=lease))
        except asyncio.CancelledError:
            self.stop_early()
            raise
        finally:
            self._lease_serial = 0
        assert isinstance(answer, Done)
        return answer.trained

    def stop_early(self) -> None:
        if self._lease_serial and self._link is not None:
            self._link.send(StopEarly(serial=self._lease_serial))

    async def land(self, landing: Landing) -> None:
        link = self._need_link()
        await link.ask(Land(serial=link.next_serial(), landing=landing))

    async def reset(self) -> None:
        link = self._need_link()
        await link.ask(Reset(serial=link.next_serial()))

    async def save_inner(self, file: str) -> str:
        link = self._need_link()
        path = str(self._log_path.parent.resolve() / file)
        answer = await link.ask(SaveInner(serial=link.next_serial(), path=path))
        assert isinstance(answer, InnerSaved)
        return answer.note

    async def load_inner(self, file: str) -> str:
        link = self._need_link()
        path = str(self._log_path.parent.resolve() / file)
        answer = await link.ask(LoadInner(serial=link.next_serial(), path=path))
        assert isinstance(answer, InnerLoaded)
        return answer.note

    async def close(self) -> None:
        await self._end(polite=True)
        self.shared.close()

    # ---- starting --------------------------------------------------------------------------

    async def _launch(self) -> TrainerLink:
        """Start the program and wait for its attach(), in every rank. Raises TrainerDied."""
        sockets = RankSockets(self._ranks, self._spec.inner.batch_rows)
        try:
            check_rows(self._spec.inner.batch_rows, self._ranks)
            folder = self._folder = _private_folder()
            (folder / "spec.json").write_bytes(spec_bytes(self._spec))
            listener = _listener(folder / "agent")
            port = free_port() if self._ranks > 1 else 0
        except OSError as error:
            raise TrainerDied(f"cannot prepare a trainer's start: {error}") from None
        except ConfigError as error:
            raise TrainerDied(str(error)) from None
        with listener:
            try:
                for rank in range(self._ranks):
                    self._processes.append(await self._spawn(folder, rank, port))
                return await self._attached(listener, sockets)
            finally:
                sockets.close()

    async def _spawn(self, folder: Path, rank: int, port: int) -> asyncio.subprocess.Process:
        path = self._log_of(rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as log:
                self._log_starts[rank] = log.tell()
                return await asyncio.create_subprocess_exec(
                    *self._program,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment(folder) | self._rank_environment(folder, rank, port),
                    start_new_session=True,  # Ctrl-C is the agent's to handle
                )
        except OSError as error:
            raise TrainerDied(f"cannot run {self._program[0]!r}: {error.strerror}") from None

    def _log_of(self, rank: int) -> Path:
        """The leader's is the trainer's; each other rank has one of its own."""
        path = self._log_path
        return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path

    def _rank_environment(self, folder: Path, rank: int, port: int) -> dict[str, str]:
        """What torchrun would set; nothing for a single process."""
        found = {"CUDA_VISIBLE_DEVICES": ",".join(self._gpus)} if self._gpus else {}
        if self._ranks == 1:
            return found
        return found | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self._ranks),
            "LOCAL_WORLD_SIZE": str(self._ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            ENV_STORE: str(folder / "store"),
        }

    def _environment(self, folder: Path) -> dict[str, str]:
        env = {**os.environ, **self._env}
        for name in (ENV_GENESIS, *RANK_VARIABLES):  # of a launcher around this agent
            env.pop(name, None)
        threads = env.setdefault(ENV_THREADS, "1")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            env.setdefault(name, threads)
        return env | {
            ENV_SOCKET: str(folder / "agent"),
            ENV_SPEC: str(folder / "spec.json"),
            ENV_DATA: str(self._data_dir),
            "PYTHONUNBUFFERED": "1",
        }

    async def _attached(self, listener: socket.socket, sockets: RankSockets) -> TrainerLink:
        """The leader's link when all ranks have greeted, or TrainerDied."""

        async def accept() -> None:
            while not sockets.complete:
                await self._accept(listener, sockets)

        try:
            async with asyncio.timeout(START_S):
                ended = await first_ended(accept(), *(p.wait() for p in self._processes))
        except TimeoutError:
            raise TrainerDied(f"the trainer did not attach within {START_S:.0f} s") from None
        except FarflungError as error:
            raise TrainerDied(str(error)) from None
        except OSError:
            raise TrainerDied(await self._how_it_ended(0)) from None
        finally:
            links = sockets.links
            self._link = links.get(0)
            self._followers = [links[rank] for rank in sorted(links) if rank]
        if self._link is None or not sockets.complete:
            raise TrainerDied(await self._how_it_ended(max(0, ended - 1)))
        self._heard_s = asyncio.get_running_loop().time()
        return self._link

    async def _accept(self, listener: socket.socket, sockets: RankSockets) -> None:
        """Greet the next rank. Raises MismatchError, ProtocolError, ConfigError, OSError."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listener)
        given: list[socket.socket] = []
        try:
            connection.setblocking(False)
            prefix = await _exactly(connection, LENGTH.size)
            body = await _exactly(connection, frame_length(prefix))
            try:
                attach = self._check(body)
                sockets.admit(attach)
            except (MismatchError, ProtocolError, ConfigError) as error:
                await loop.sock_sendall(connection, encode(RefuseAttach(sentence=str(error))))
                raise
            frame = encode(self._welcome())
            given = sockets.take(attach.rank)
            descriptors = [self.shared.fd, *(end.fileno() for end in given)]
            socket.send_fds(connection, [frame[: LENGTH.size]], descriptors)
            await loop.sock_sendall(connection, frame[LENGTH.size :])
            _, link = await loop.connect_accepted_socket(
                lambda: TrainerLink(self._note), connection
            )
        except BaseException:
            connection.close()
            raise
        finally:
            for end in given:
                end.close()
        sockets.links[attach.rank] = link

    def _check(self, body: bytes) -> Attach:
        check_version(body, "trainer")
        attach = decode_from_trainer(body)
        if not isinstance(attach, Attach):
            raise ProtocolError(f"the trainer began with {type(attach).__name__}, not Attach")
        check_frozen(attach.frozen, self._frozen)
        check_layout(dict(attach.layout), dict(self._layout))
        return attach

    def _welcome(self) -> AcceptAttach:
        return AcceptAttach(
            version=TRAINER_PROTOCOL_VERSION,
            spec=spec_bytes(self._spec),
            layout=self._layout,
            fragments=self.shared.fragments,
            slots=self.shared.slots,
            data_dir=str(self._data_dir),
        )

    # ---- running ---------------------------------------------------------------------------

    def _note(self, progress: Progress) -> None:
        self._progress = progress
        self._heard_s = asyncio.get_running_loop().time()

    def _need_link(self) -> TrainerLink:
        if self._link is None:
            raise TrainerDied(self._failure or "the trainer is not running")
        return self._link  # of one that has ended, too: who asks it is told how it ended

    async def _watch(
        self, processes: Sequence[asyncio.subprocess.Process], link: TrainerLink
    ) -> None:
        """Fail everything that waits when a process ends; end all when one does or hangs up."""
        links = (link, *self._followers)
        ended = await first_ended(
            *(p.wait() for p in processes), *(each.lost.wait() for each in links)
        )
        rank = ended if ended < len(processes) else ended - len(processes)
        reason = await self._how_it_ended(min(rank, len(processes) - 1))
        self._give_up(next((each.broken for each in links if each.broken), reason), link)

    async def _watch_steps(self, link: TrainerLink) -> None:
        """End a trainer of several ranks that owes an answer and makes no step.

        One rank that hangs holds up all others, and they hold up nobody else: a collective has a
        deadline of minutes, a step of seconds.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            patient = self._progress.phase in (NodePhase.COMPILING, NodePhase.SAVING)
            if patient or not link.owes:
                self._heard_s = loop.time()
            speed = self._progress.steps_per_s
            allowed_s = max(
                HUNG_FLOORS * self._spec.swarm.progress_s, HUNG_STEPS / speed if speed else 0.0
            )
            silent_s = loop.time() - self._heard_s
            if silent_s > allowed_s:
                self._kill()
                self._give_up(
                    f"the trainer hung: no step of its {1 + len(self._followers)} ranks for "
                    f"{silent_s:.0f} s (log: {self._log_path})",
                    link,
                )
                return

    def _give_up(self, reason: str, link: TrainerLink) -> None:
        """The first reason counts: the ranks that are killed for it have others."""
        if not link.failed:
            self._failed(reason)
            link.fail(TrainerDied(reason))

    async def _how_it_ended(self, rank: int) -> str:
        """What became of the rank that ended first; afterwards none of the others is left."""
        code = await _end_of(self._processes[rank])
        self._kill()
        return self._reason(code, rank)

    def _kill(self) -> None:
        for process in self._processes:
            _signal(process, signal.SIGKILL)

    def _unwatched(self, error: Exception) -> None:
        """Nobody would hear of the trainer's end: it counts as ended, and is started again."""
        if self._link is not None:
            self._link.fail(TrainerDied(f"the trainer is not watched any more: {error}"))

    def _reason(self, code: int, rank: int = 0) -> str:
        """One line: how it ended and the last thing that it said."""
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"killed by {signal.Signals(-code).name}"
        path = self._log_of(rank)
        last = last_words(_tail(path, self._log_starts.get(rank, 0)))
        said = f": {last}" if last else ""
        who = f"rank {rank} of {self._ranks}" if self._ranks > 1 else "the trainer"
        return f"{who} ended ({how}){said} (log: {path})"

    def _failed(self, reason: str) -> None:
        self._failure, self._failed_at = reason, self.steps

    # ---- ending ----------------------------------------------------------------------------

    async def _end(self, *, polite: bool) -> None:
        processes, link, followers = self._processes, self._link, self._followers
        self._processes, self._followers, self._link = [], [], None
        self._tasks.cancel()
        await self._tasks.ended()
        if processes and polite and link is not None:
            link.send(Shutdown())
            await _all_ended_within(processes, POLITE_S)
            bad = [(rank, p.returncode) for rank, p in enumerate(processes) if p.returncode]
            if bad and not self._failure:  # by itself, and not well
                self._failed(self._reason(int(bad[0][1] or 0), bad[0][0]))
            for process in processes:
                _signal(process, signal.SIGTERM)
            await _all_ended_within(processes, POLITE_S)
        for process in processes:
            _signal(process, signal.SIGKILL)
            await process.wait()
        if link is not None:
            link.fail(TrainerDied("the trainer was ended"))
        for each in (link, *followers):
            if each is not None:
                each.close()
        self._clean()

    def _clean(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def free_port() -> int:
    """A TCP port of this machine that nobody uses now, for programs that meet over one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _private_folder() -> Path:
    """A new folder that only this user may enter, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="farflung-"))
    if len(str(folder / "agent")) > _PATH_CAP:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="farflung-", dir="/tmp"))
    return folder


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(MOST_RANKS)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


async def _exactly(connection: socket.socket, n_bytes: int) -> bytes:
    """Raises ConnectionError when the other side hangs up before."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < n_bytes:
        part = await loop.sock_recv(connection, n_bytes - len(data))
        if not part:
            raise ConnectionError("the trainer hung up while it attached")
        data += part
    return data


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """To the trainer and its own children; nothing when it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


async def _ended_within(process: asyncio.subprocess.Process, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.wait()


async def _all_ended_within(
    processes: Sequence[asyncio.subprocess.Process], seconds: float
) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for process in processes:
                await process.wait()


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """The exit code of a process that is about to end; one that does not is killed."""
    await _ended_within(process, POLITE_S)
    _signal(process, signal.SIGKILL)
    return await process.wait()


def _tail(path: Path, start: int) -> str:
    """The end of what was written from byte `start` on."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_words(log: str) -> str:
    """What a program that ended said of it: the error of its last traceback, else its last line."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if starts:
        after = [line for line in lines[starts[-1] + 1 :] if not line[0].isspace()]
        if after:
            return re.sub(r"^farflung\.\S+: ", "", after[0])
    return lines[-1].strip() if lines else ""
