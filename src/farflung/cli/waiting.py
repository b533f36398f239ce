"""What a state that lasts says: what is waited for, since when, what ends it, and who must act.

One table of sentences for `join`, `host`, `watch` and `status`. Pure: phases and times come from
whoever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from farflung.cli.screens.numbers import span
from farflung.cli.screens.text import inert
from farflung.ids import NodePhase, Role
from farflung.peer.glance import Glance
from farflung.peer.standing import StayPhase

NOBODY = "nothing to do"
FIRST_S, SECOND_S, THEN_S = 10.0, 60.0, 600.0
"""After how long a state that lasts is told, again, and then every so often."""


class Wait(StrEnum):
    """Everything that a process of a run can be waiting for."""

    # ---- a node
    HOST = "the host"
    JOURNAL = "the run's journal"
    DATA = "the data"
    STATE = "the model's state"
    LOADING = "the trainer to load"
    COMPILING = "the first step"
    RESETTING = "the trainer to take the new weights"
    ADMISSION = "its turn"
    PLAN = "the next round"
    ROWS = "rows of the data"
    TRAINING = "its inner steps"
    OTHERS = "the round's result"
    SAVING = "the optimizer's state to be saved"
    EVALUATING = "the evaluation"
    QUESTION = "the next evaluation"
    FOLLOWING = "the next round to follow"
    COORDINATOR = "the coordinator"
    DISK = "the disk"
    END = "the last round to be kept"
    # ---- a run
    FIRST_PEERS = "peers"
    MIN_PEERS = "more peers"
    ROUND = "the round's peers"
    JOURNAL_DISK = "the coordinator's disk"
    PAUSED = "the run"
    LAST_ROUND = "the last round to reach everybody"
    UPLOAD = "the archive"
    NOTHING = "nothing"
    UNSERVED = "a host"


@dataclass(frozen=True, kw_only=True)
class StateWords:
    """What a state says of itself."""

    what: str
    """Now: the short form of a live line."""
    ends: str
    """What ends it."""
    act: str = NOBODY
    """What a person must do."""


STATE_WORDS: dict[Wait, StateWords] = {
    Wait.HOST: StateWords(
        what="waiting for the host",
        ends="it is tried again until it answers",
        act="nothing to do here; its owner starts it with `farflung host` (Ctrl-C leaves)",
    ),
    Wait.JOURNAL: StateWords(
        what="reading the run's journal",
        ends="goes on when all of it is here",
    ),
    Wait.DATA: StateWords(
        what="fetching the data",
        ends="goes on when enough rows are here to begin",
        act="nothing to do; what has arrived is kept",
    ),
    Wait.STATE: StateWords(
        what="fetching the model's state",
        ends="goes on when a keeper or a peer has sent all of it",
        act="nothing to do; what has arrived is kept",
    ),
    Wait.LOADING: StateWords(
        what="starting the trainer",
        ends="goes on when the model is loaded",
        act="nothing to do; trainer.log has its output",
    ),
    Wait.COMPILING: StateWords(
        what="compiling",
        ends="goes on with the first step, which may take minutes on a GPU",
    ),
    Wait.RESETTING: StateWords(
        what="loading the newest weights into the trainer",
        ends="goes on when they are in place",
        act="nothing to do, unless the trainer hangs: see trainer.log",
    ),
    Wait.ADMISSION: StateWords(
        what="ready; waiting to be let in",
        ends="the coordinator lets newcomers in when a round ends",
    ),
    Wait.PLAN: StateWords(
        what="waiting for the next round",
        ends="the coordinator opens it when enough peers are here",
        act="nothing to do; `farflung status` shows who is missing",
    ),
    Wait.ROWS: StateWords(
        what="training waits for rows of the data",
        ends="goes on when they are downloaded",
        act="nothing to do; a larger --data-cache keeps more of them here",
    ),
    Wait.TRAINING: StateWords(
        what="training",
        ends="ends with the last inner step of the round",
    ),
    Wait.OTHERS: StateWords(
        what="this part is done; waiting for the round's result",
        ends="ends when the others are done too, or when they are given up",
    ),
    Wait.SAVING: StateWords(
        what="saving the optimizer's state",
        ends="goes on when it is on the disk",
    ),
    Wait.EVALUATING: StateWords(
        what="measuring the model",
        ends="ends when the held-out text is scored",
    ),
    Wait.QUESTION: StateWords(
        what="following the run",
        ends="measures the model when the coordinator asks for it",
    ),
    Wait.FOLLOWING: StateWords(
        what="following the run",
        ends="goes on with every round",
    ),
    Wait.COORDINATOR: StateWords(
        what="the coordinator is gone; training goes on",
        ends="it is tried again until it answers; no work is lost",
        act="nothing to do here; its owner starts it with `farflung host`",
    ),
    Wait.DISK: StateWords(
        what="the disk refuses what must be kept",
        ends="goes on as soon as it takes data again",
        act="free some space, or give a smaller --max-disk",
    ),
    Wait.END: StateWords(
        what="the run is complete; serving its last round",
        ends="ends when the host has it, after 5 m at the latest without one",
        act="nothing to do; Ctrl-C leaves earlier",
    ),
    Wait.FIRST_PEERS: StateWords(
        what="waiting for peers",
        ends="the first round opens by itself when enough have joined",
        act="pass the invite on: it is in the host's folder, invite.txt",
    ),
    Wait.MIN_PEERS: StateWords(
        what="paused",
        ends="goes on by itself when enough peers are back",
        act="nothing to do if they will come back; else invite others, or `farflung host --extend "
        "min_peers=N`",
    ),
    Wait.ROUND: StateWords(
        what="a round is open",
        ends="it is committed when its peers are done; who is too slow is left out",
    ),
    Wait.JOURNAL_DISK: StateWords(
        what="paused: the coordinator's disk takes no records",
        ends="goes on as soon as it can be written again",
        act="free some space on the host's disk",
    ),
    Wait.PAUSED: StateWords(
        what="paused",
        ends="goes on by itself when the reason is gone",
        act="see the reason",
    ),
    Wait.LAST_ROUND: StateWords(
        what="the run is complete; serving its last round",
        ends="ends when every node holds it, after 5 m at the latest",
        act="nothing to do; keep the host up until then",
    ),
    Wait.UPLOAD: StateWords(
        what="the run is complete; bringing the archive up to date",
        ends="ends when the last snapshot is there",
        act="nothing to do; keep the host up until then",
    ),
    Wait.NOTHING: StateWords(
        what="complete",
        ends="`farflung host --extend rounds=+N` would open it again",
    ),
    Wait.UNSERVED: StateWords(
        what="not running",
        ends="goes on where it stopped when its host is started",
        act="start it with `farflung host`, where the run lives",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A state that may last."""

    wait: Wait
    since_s: float | None
    """On the caller's clock; None: not known."""
    detail: str = ""
    """What is known besides: a reason, how far a download is."""

    @property
    def told(self) -> StateWords:
        return STATE_WORDS[self.wait]


def brief(waiting: Waiting, now_s: float) -> str:
    """For a live line: `fetching the model's state, 12 s: 120 of 512 MB`."""
    return inert(_opening(waiting, now_s))


def sentence(waiting: Waiting, now_s: float) -> str:
    """The whole: what, since when, what ends it, who must act."""
    told = waiting.told
    return inert(f"{_opening(waiting, now_s)}; {told.ends}; {told.act}")


def _opening(waiting: Waiting, now_s: float) -> str:
    what, detail = waiting.told.what, waiting.detail
    since = "" if waiting.since_s is None else f" for {span(now_s - waiting.since_s)}"
    if what.startswith("paused") and detail.startswith("paused"):
        what, detail = detail, ""
    return f"{what}{since}" + (f": {detail}" if detail else "")


class Reminder:
    """When a state that lasts is to be told: after 10 s, after a minute, then every ten."""

    def __init__(self) -> None:
        self._wait: Wait | None = None
        self._since_s = 0.0
        self._next_s = FIRST_S

    def due(self, waiting: Waiting | None, now_s: float) -> bool:
        """Ask as often as you like; True says that it counts as told."""
        if waiting is None or waiting.wait is not self._wait:
            self._wait = None if waiting is None else waiting.wait
            self._since_s, self._next_s = now_s, FIRST_S
        if waiting is None:
            return False
        since_s = self._since_s if waiting.since_s is None else waiting.since_s
        lasts_s = now_s - since_s
        if lasts_s < self._next_s:
            return False
        self._next_s = _after(lasts_s)
        return True

    def said(self, waiting: Waiting, now_s: float) -> None:
        """Somebody has just told it: not again at once."""
        self.due(waiting, now_s)
        since_s = self._since_s if waiting.since_s is None else waiting.since_s
        self._next_s = max(self._next_s, _after(now_s - since_s + FIRST_S))


def _after(lasts_s: float) -> float:
    if lasts_s < SECOND_S:
        return SECOND_S
    return (lasts_s // THEN_S + 1) * THEN_S


# ---- which state it is ---------------------------------------------------------------------

QUIET = frozenset({Wait.TRAINING, Wait.FOLLOWING, Wait.QUESTION, Wait.ROUND, Wait.NOTHING})
"""What is as it should be: shown where somebody looks, said to nobody."""


def of_node(glance: Glance | None) -> Wait:
    """What a node is doing or waiting for now. `glance` None: it has not reached its host yet."""
    if glance is None:
        return Wait.HOST
    if not glance.connected:
        return Wait.COORDINATOR if glance.known else Wait.HOST
    if not glance.known:
        return Wait.JOURNAL
    if glance.finished:
        return Wait.END
    if not glance.provided:
        return Wait.DATA
    match glance.stay:
        case StayPhase.SYNCING:
            return Wait.STATE
        case StayPhase.STARTING:
            return _starting(glance)
        case StayPhase.READY | StayPhase.ASKED:
            return Wait.ADMISSION
        case StayPhase.MEMBER:
            return _member(glance)


def _starting(glance: Glance) -> Wait:
    if glance.role != Role.TRAINER:
        return Wait.FOLLOWING
    loaded = glance.trainer not in (NodePhase.LOADING, NodePhase.NONE)
    return Wait.RESETTING if loaded else Wait.LOADING


def _member(glance: Glance) -> Wait:
    if glance.role != Role.TRAINER:
        if glance.role != Role.EVALUATOR:
            return Wait.FOLLOWING
        return Wait.EVALUATING if glance.evaluating else Wait.QUESTION
    if glance.rows_missing:
        return Wait.ROWS
    match glance.trainer:
        case NodePhase.SYNCING:
            return Wait.STATE
        case NodePhase.LOADING:
            return Wait.LOADING
        case NodePhase.COMPILING:
            return Wait.COMPILING if glance.lease.steps else Wait.PLAN
        case NodePhase.SAVING:
            return Wait.SAVING
        case NodePhase.TRAINING if glance.lease.steps:
            return Wait.TRAINING
        case NodePhase.TRAINING | NodePhase.WAITING | NodePhase.NONE:
            return Wait.OTHERS if glance.lease.departed else Wait.PLAN


def wait_of_run(state: str, reason: str, uploading: str = "") -> Wait:
    """What a run of this state (`RunState` of the window) waits for."""
    words = reason.lower()
    match state:
        case "waiting":
            return Wait.FIRST_PEERS
        case "paused" if "journal" in words or "disk" in words:
            return Wait.JOURNAL_DISK
        case "paused" if "peer" in words:
            return Wait.MIN_PEERS
        case "paused":
            return Wait.PAUSED
        case "finished":
            return Wait.UPLOAD if uploading else Wait.NOTHING
        case "stopped":
            return Wait.UNSERVED
        case _:
            return Wait.ROUND


def of_run(
    state: str, reason: str, uploading: str = "", since: float | None = None, now: float = 0.0
) -> str:
    """What a run says of its state: since when, the coordinator's reason, and whatever of what ends
    it and who must act the reason leaves open."""
    wait = wait_of_run(state, reason, uploading)
    if wait is Wait.ROUND and not reason:
        return ""
    if not reason.endswith("."):  # of a coordinator that says less
        return sentence(Waiting(wait=wait, since_s=since, detail=reason), now)
    told = STATE_WORDS[wait]
    lasts = "" if since is None else f"for {span(now - since)}: "
    if wait is Wait.ROUND:
        return inert(lasts + reason)
    known = "by itself" in reason or "Nobody" in reason
    more = [] if known else [told.ends]
    more += [told.act] if told.act != NOBODY and not _says(reason, told.act) else []
    return inert(lasts + " ".join([reason, *(f"{m[:1].upper()}{m[1:]}." for m in more)]))


def _says(reason: str, act: str) -> bool:
    """Whether the reason names the command, or the disk, that a person would be pointed to."""
    return any(word in reason and word in act for word in ("farflung host", "free", "Nobody"))
