"""Counts on the side of the clients what the proxy must have counted, and compares the sums at the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chaos.count import Tolerated, Trial, failed, gated
from chaos.pairs import Asked

RELEASE = "reviews"
PHASES = ("ready", "not-ready", "trial", "ramp")
KEPT_BY = re.compile(rb"upstream ([\w-]+) is not ready")


@dataclass(frozen=True)
class Sum:
    """What the proxy says, and what the clients or the schedule do. The latter is a range of what may be."""

    what: str
    proxy: int
    least: int
    most: int
    unit: str = "requests"

    @classmethod
    def exact(cls, what: str, proxy: int, right: int, unit: str = "requests") -> Sum:
        return cls(what, proxy, right, right, unit)

    @property
    def holds(self) -> bool:
        return self.least <= self.proxy <= self.most

    @property
    def wanted(self) -> str:
        return f"{self.least:,}" if self.least == self.most else f"{self.least:,} to {self.most:,}"

    @property
    def problem(self) -> str:
        return f"{self.what}: the proxy counts {self.proxy:,} {self.unit}, and {self.wanted} is right"


@dataclass(frozen=True)
class Said:
    """The answer to a probe or a drain order. `code` is 0 if there was none."""

    probe: str
    code: int
    body: str
    at: float

    @property
    def by_filter(self) -> bool:
        return self.body.startswith("policy ") or "\npolicy " in self.body


class Ledger:
    def __init__(self) -> None:
        self.graygate = 0
        self.plain = 0
        self.unanswered = 0
        self.assigned: Counter[str] = Counter()
        self.gated: Counter[str] = Counter()
        self.probes: Counter[tuple[str, int]] = Counter()
        # Requests that ended with a VM, or whose version no response tells. The filter may have counted them or not.
        self.unsure = 0
        # Probes that Envoy answered because a VM had ended.
        self.lost_probes: list[Said] = []

    def add(self, trial: Trial) -> None:
        """Counts the requests of a part of the run."""
        self.graygate += len(trial.graygate)
        self.plain += len(trial.plain)
        self.unanswered += sum(asked.answer.status == 0 for asked in (*trial.graygate, *trial.plain))
        for asked in trial.graygate:
            self._add(asked, trial)

    def _add(self, asked: Asked, trial: Trial) -> None:
        answer = asked.answer
        if gated(answer):
            # A request that a gate keeps gets no version.
            found = KEPT_BY.search(answer.body)
            self.gated[found[1].decode() if found else "?"] += 1
        elif answer.version:
            self.assigned[answer.version] += 1
        elif failed(answer):
            versions = trial.versions[asked.user]
            if len(versions) > 1 or within(answer.asked, trial.tolerated, "failed"):
                self.unsure += 1
            else:
                self.assigned.update(versions)
        else:
            self.assigned["?"] += 1

    def one(self, version: str | None) -> None:
        """Counts a request besides the load, which asks whether a policy is in use."""
        self.graygate += 1
        if version:
            self.assigned[version] += 1
        else:
            self.unsure += 1

    def probe(self, said: Iterable[Said]) -> None:
        for each in said:
            self.graygate += 1
            if each.by_filter:
                self.probes[each.probe, each.code] += 1
            else:
                self.lost_probes.append(each)

    # -- at the end -----------------------------------------------------------------

    def sums(self, stats: Mapping[str, int], again: int) -> list[Sum]:
        """Returns the sums of requests. `stats` are the proxy's. `again` is how many requests were sent once more."""

        def requests(what: str, proxy: int, right: int, more: int = 0) -> Sum:
            return Sum(what, proxy, right, right + more)

        assigned = by_label(stats, "graygate_assignments_total", "version")
        versions = sorted({*assigned, *self.assigned})
        kept = by_label(stats, "graygate_gated_requests_total", "upstream")
        gates = sorted({*kept, *self.gated})
        more = self.unsure + again
        return [
            requests("requests at graygate", stats["http.graygate.downstream_rq_total"], self.graygate, again),
            requests("requests at plain", stats["http.plain.downstream_rq_total"], self.plain, again),
            requests("without an answer", self.unanswered, 0),
            *(requests(f"given {name}", assigned[name], self.assigned[name], more) for name in versions),
            requests("given a version", assigned.total(), self.assigned.total(), more),
            *(requests(f"kept from {name} by a gate", kept[name], self.gated[name]) for name in gates),
            requests("let through by a closed gate", total(stats, "graygate_failed_open_requests_total"), 0),
            requests("sent to a wrong cluster", total(stats, "graygate_misrouted_requests_total"), 0),
            *self._probes(stats),
        ]

    def _probes(self, stats: Mapping[str, int]) -> list[Sum]:
        answers: Counter[tuple[str, int]] = Counter()
        for labels, value in labelled(stats, "graygate_probe_answers_total"):
            answers[labels["probe"], int(labels["code"])] += value
        kinds = sorted(+answers | self.probes)
        return [
            Sum.exact(f"{probe} answered {code}", answers[probe, code], self.probes[probe, code], "probes")
            for probe, code in kinds
        ]


def within(moment: float, spans: Iterable[Tolerated], kind: str) -> bool:
    return any(kind in span.kinds and span.begin <= moment < span.end for span in spans)


def labelled(stats: Mapping[str, int], metric: str) -> list[tuple[dict[str, str], int]]:
    prefix = f"wasmcustom.{metric}."
    found = [(name, value) for name, value in stats.items() if name.startswith(prefix)]
    return [(dict(re.findall(r"(\w+)=\.=(.*?);\.;", name)), value) for name, value in found]


def by_label(stats: Mapping[str, int], metric: str, label: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for labels, value in labelled(stats, metric):
        counts[labels[label]] += value
    return counts


def total(stats: Mapping[str, int], metric: str) -> int:
    return sum(value for _, value in labelled(stats, metric))


def transitions(stats: Mapping[str, int], outages: Mapping[str, int]) -> list[Sum]:
    """Returns the sums of transitions. Each upstream was ready at the start and is at the end.

    So it has left each phase as often as it has entered it, and at least once for each of its outages it was not ready.
    """
    lines = []
    for upstream, fallen in sorted(outages.items()):
        entered: Counter[str] = Counter()
        left: Counter[str] = Counter()
        for labels, value in labelled(stats, "graygate_transitions_total"):
            if labels["upstream"] == upstream:
                entered[labels["to"]] += value
                left[labels["from"]] += value
        for phase in PHASES:
            if entered[phase] or left[phase]:
                what = f"{upstream} entered {phase}, and left it"
                lines.append(Sum.exact(what, entered[phase], left[phase], "transitions"))
        lines.append(Sum(f"{upstream} left ready", left["ready"], fallen, 10 * fallen, "transitions"))
    return lines


def shares(stats: Mapping[str, int], share: float) -> list[Sum]:
    shown = by_label(stats, "graygate_version_share_basis_points", "version")
    right = {"v1": 10_000 - round(100 * share), "v2": round(100 * share)}
    return [Sum.exact(f"share of {name}", shown[name], value, "basis points") for name, value in right.items()]


def problems(sums: Sequence[Sum]) -> list[str]:
    return [line.problem for line in sums if not line.holds]
