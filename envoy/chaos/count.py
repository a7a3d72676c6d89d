"""Counts what a listener did with its requests."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.load import Answer

from .pairs import Asked

# The policy forces the gate of this path to be closed.
CLOSED = "/closed"
# In seconds. A gate may be closed for this long after its upstream is well: checks have to pass, and workers to see it.
GRACE = 2.0
# In seconds. What is lost at both listeners in the same moment, the filter has not lost.
MOMENT = 0.1
WORDS = {
    "failed": "lost that the plain listener did not lose",
    "wrong version": "with a wrong version",
    "wrong gate": "with a wrong gate",
}

# The versions that the policy gives to each user. While policies follow each other, there may be two.
Versions = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Outage:
    """The time in which the upstream of a version fails. Times are of the monotonic clock."""

    version: str
    begin: float
    end: float


@dataclass(frozen=True)
class Tolerated:
    """A time in which requests of the filter's listener may go wrong in these ways. Each must be seen if `wanted`."""

    kinds: Collection[str]
    begin: float
    end: float
    why: str
    wanted: bool = True


@dataclass(frozen=True)
class Figures:
    sent: int
    failed: int
    gated: int
    wrong_version: int
    wrong_gate: int


def gated(answer: Answer) -> bool:
    return answer.status == 503 and answer.version is None and b"is not ready" in answer.body


def failed(answer: Answer) -> bool:
    """Returns whether the user got no response, or a 5xx of the proxy that is not a gate's.

    A response of an upstream names its version.
    """
    return answer.status == 0 or (answer.status >= 500 and answer.version is None and not gated(answer))


def wrong_version(asked: Asked, versions: Versions) -> bool:
    return asked.answer.version is not None and asked.answer.version not in versions[asked.user]


def wrong_gate(asked: Asked, versions: Versions, outages: Sequence[Outage]) -> bool:
    """Judges a request of the filter's listener."""
    if asked.path == CLOSED:
        return asked.answer.version is not None
    may_be_closed = any(
        outage.version in versions[asked.user] and outage.begin <= asked.answer.asked < outage.end + GRACE
        for outage in outages
    )
    return gated(asked.answer) and not may_be_closed


def shown(asked: Asked) -> str:
    answer = asked.answer
    return f"{asked.user} {asked.path}: {answer.status} {answer.body.decode(errors='replace').strip()}".rstrip()


@dataclass(frozen=True)
class Trial:
    """All requests of a scenario, and what was right for them."""

    graygate: Sequence[Asked]
    plain: Sequence[Asked]
    versions: Versions
    outages: Sequence[Outage] = ()
    tolerated: Sequence[Tolerated] = ()

    def figures(self) -> tuple[Figures, Figures]:
        """Returns the figures of the filter's listener and of the plain one."""
        return self._figures(self.graygate, self.outages), self._figures(self.plain, None)

    def _figures(self, all_asked: Sequence[Asked], outages: Sequence[Outage] | None) -> Figures:
        answers = [asked.answer for asked in all_asked]
        # No request is for a gate at the plain listener, so a gate's reply is wrong there.
        return Figures(
            sent=len(answers),
            failed=sum(map(failed, answers)),
            gated=sum(map(gated, answers)),
            wrong_version=sum(wrong_version(asked, self.versions) for asked in all_asked),
            wrong_gate=sum(
                gated(asked.answer) if outages is None else wrong_gate(asked, self.versions, outages)
                for asked in all_asked
            ),
        )

    def wrongs(self) -> dict[str, list[Asked]]:
        """Returns what went wrong at the filter's listener: lost alone, wrong version, wrong gate."""
        lost = sorted(asked.answer.asked for asked in self.plain if failed(asked.answer))

        def alone(answer: Answer) -> bool:
            at = bisect_left(lost, answer.asked - MOMENT)
            return (lost[at] if at < len(lost) else math.inf) > answer.asked + MOMENT

        return {
            "failed": [asked for asked in self.graygate if failed(asked.answer) and alone(asked.answer)],
            "wrong version": [asked for asked in self.graygate if wrong_version(asked, self.versions)],
            "wrong gate": [asked for asked in self.graygate if wrong_gate(asked, self.versions, self.outages)],
        }

    def problems(self) -> list[str]:
        """Returns a line for each way in which the filter did worse than it may. Empty if all is well."""
        lines = []
        for kind, wrong in self.wrongs().items():
            spans = [each for each in self.tolerated if kind in each.kinds]
            left = [asked for asked in wrong if not any(s.begin <= asked.answer.asked < s.end for s in spans)]
            if left:
                lines.append(f"{len(left)} requests {WORDS[kind]}; the first: {shown(left[0])}")
            for span in spans:
                seen = any(span.begin <= asked.answer.asked < span.end for asked in wrong)
                if span.wanted and not seen:
                    lines.append(f"no request {WORDS[kind]} while {span.why}, so the fault was not there")
        if not self.graygate or len(self.graygate) != len(self.plain):
            lines.append(f"{len(self.graygate)} and {len(self.plain)} responses: not as many for each listener")
        return lines
