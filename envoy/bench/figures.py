"""The figures of each contestant, from its costs in all rounds, and the verdicts on its limits.

- The median over no filter is the median of the differences within each round, so that what slows a round down counts
  little.
- The least over no filter is the least cost of all rounds, less the least cost of the baseline. Noise only adds to CPU
  time. With many short bursts, some of each contestant's have little of it.
- A verdict goes by the rounds in which the contestant was within its limit. If chance alone could explain their
  number, the verdict is that the machine is too noisy to tell.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

from .contestants import Contestant, Limit

Verdict = Literal["ok", "over", "too noisy to tell"]
# The chance of each wrong verdict on a contestant whose cost is exactly its limit. It takes at least six rounds.
CHANCE = 0.025
# The most cores that may be busy with other things than the measurement.
OTHERS = 0.1


@dataclass(frozen=True)
class Comparison:
    """A contestant beside the one that its limit names.

    `its` is the median of the other one. `measure` is the ratio or the difference by the medians, and `least` by the
    least costs. Both are None if the other cost too little to measure. `within` is the number of rounds within the
    limit. It and the verdict are None without a limit.
    """

    limit: Limit
    its: float
    measure: float | None
    least: float | None
    within: int | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Figures:
    """The figures of one contestant, in microseconds of CPU time per request.

    `in_all` is the median of `rounds`, and `least_in_all` their least. `over` and `least` are the median and the least
    over no filter. `quartiles` are those of the differences within each round. A baseline has no `over` and `least`,
    and its quartiles are those of `rounds`.
    """

    title: str
    requests: int
    in_all: float
    least_in_all: float
    over: float | None
    least: float | None
    quartiles: tuple[float, float]
    comparisons: Sequence[Comparison]
    verdict: Verdict | None
    rounds: Sequence[float]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def figures(
    contestants: Mapping[str, Contestant],
    costs: Mapping[str, Sequence[float]],
    requests: Mapping[str, int],
    others: float = 0.0,
) -> dict[str, Figures]:
    """Returns the figures of all contestants. `others` is the number of cores that were busy with other things."""
    over, least = {}, {}
    for name, each in contestants.items():
        baseline = costs[each.baseline] if each.baseline else [0.0] * len(costs[name])
        over[name] = [mine - its for mine, its in zip(costs[name], baseline, strict=True)]
        least[name] = min(costs[name]) - min(baseline)
    found = {}
    for name, each in contestants.items():
        comparisons = [
            compared(limit, name, costs if limit.kind == "in all" else over, least, others) for limit in each.limits
        ]
        found[name] = Figures(
            title=each.title,
            requests=requests[name],
            in_all=statistics.median(costs[name]),
            least_in_all=min(costs[name]),
            over=statistics.median(over[name]) if each.baseline else None,
            least=least[name] if each.baseline else None,
            quartiles=quartiles(over[name]),
            comparisons=comparisons,
            verdict=together([each.verdict for each in comparisons], one_is_enough=each.one_is_enough),
            rounds=costs[name],
        )
    return found


def compared(
    limit: Limit, name: str, values: Mapping[str, Sequence[float]], least: Mapping[str, float], others: float
) -> Comparison:
    """Compares the costs over no filter, or the total ones for a limit of the kind `in all`."""
    pairs = list(zip(values[name], values[limit.against], strict=True))
    its = statistics.median(values[limit.against])
    measure: float | None
    by_least: float | None
    match limit.kind:
        case "more":
            measure = statistics.median(mine - other for mine, other in pairs)
            by_least = least[name] - least[limit.against]
        case "in all":
            measure = statistics.median(mine / other for mine, other in pairs)
            by_least = min(values[name]) / min(values[limit.against])
        case "times":
            # Not a ratio within each round, as a small cost may be 0 in one of them.
            measure = statistics.median(values[name]) / its if its > 0 else None
            by_least = least[name] / least[limit.against] if least[limit.against] > 0 else None
    if limit.at_most is None:
        return Comparison(limit, its, measure, by_least, None, None)
    kept = [mine <= (other + limit.at_most if limit.kind == "more" else other * limit.at_most) for mine, other in pairs]
    within = measure is not None and measure <= limit.at_most
    # The median and the rounds must agree.
    certain = measure is not None and others <= OTHERS and beyond_chance(kept.count(within), len(kept))
    verdict: Verdict = "too noisy to tell" if not certain else "ok" if within else "over"
    return Comparison(limit, its, measure, by_least, kept.count(True), verdict)


def beyond_chance(count: int, rounds: int) -> bool:
    """Returns whether a fair coin seldom falls on one side in at least `count` of the rounds."""
    return sum(comb(rounds, heads) for heads in range(count, rounds + 1)) <= CHANCE * float(2**rounds)


def together(verdicts: Collection[Verdict | None], *, one_is_enough: bool) -> Verdict | None:
    """Returns the verdict on a contestant with several limits, of which one or all must be kept."""
    told = [each for each in verdicts if each]
    best: Verdict
    worst: Verdict
    best, worst = ("ok", "over") if one_is_enough else ("over", "ok")
    if not told or best in told:
        return best if told else None
    return "too noisy to tell" if "too noisy to tell" in told else worst
