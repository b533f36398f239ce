"""How long a run was to go, and whether it went so: the journal's amendments and ends. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from farflung.config.run import RunSpec
from farflung.errors import ConfigError, ProtocolError
from farflung.swarm import ranges
from farflung.swarm.amendments import amended_by
from farflung.swarm.records import Admin, Amend, AnyRecord, Commit, Genesis, Lease, Term
from farflung.swarm.replay import genesis_spec


def check_course(records: Iterable[AnyRecord]) -> int:
    """How many amendments there are.

    Raises ProtocolError in one sentence when one of them does not fit its place in the journal or
    changes what may not change, when the run was finished before its end, or when a round was
    opened in a finished run.
    """
    stream = iter(records)
    genesis = next(stream, None)
    if not isinstance(genesis, Genesis):
        raise ProtocolError("the journal does not begin with GENESIS")
    course = _Course(genesis_spec(genesis))
    for record in stream:
        course.read(record)
    return course.amended


class _Course:
    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.amended = 0
        self._term = 0
        self._next_round = 0
        self._committed = 0
        self._tokens = 0
        self._finished = False
        self._requests: set[str] = set()

    def read(self, record: AnyRecord) -> None:
        match record:
            case Term():
                self._term = record.term
            case Lease():
                if self._finished:
                    raise ProtocolError(f"round {record.round} was opened in a finished run")
                self._next_round = record.round + 1
            case Commit():
                rows = sum(ranges.count(c.credited) for c in record.contributors)
                self._committed += 1
                self._tokens += rows * self.spec.data.seq_len
            case Admin(action="finish"):
                self._finish()
            case Amend():
                self._amend(record)
            case _:
                pass

    def _finish(self) -> None:
        outer = self.spec.outer
        done, wanted = self._committed, outer.rounds
        if outer.tokens:
            done, wanted = self._tokens, outer.tokens
        if done < wanted:
            raise ProtocolError(f"the run was finished at {done} of {wanted}")
        self._finished = True

    def _amend(self, record: Amend) -> None:
        said = (record.term, record.from_round, record.committed, record.tokens)
        if said != (self._term, self._next_round, self._committed, self._tokens):
            raise ProtocolError(
                f"an amendment says that it came in term {said[0]} before round {said[1]}, after "
                f"{said[2]} commits of {said[3]} tokens, but its place is term {self._term}, "
                f"round {self._next_round}, {self._committed} commits, {self._tokens} tokens"
            )
        if record.request in self._requests:
            raise ProtocolError(f"the amendment {record.request!r} was journalled twice")
        try:
            self.spec = amended_by(self.spec, record)
        except ConfigError as error:
            raise ProtocolError(str(error)) from None
        self._requests.add(record.request)
        self._finished = False
        self.amended += 1
