"""Records which version each user gets, at one time and over time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .envoy import Envoy
from .load import Request, drive
from .wait import until

USERS = [f"user-{number}" for number in range(500)]
Versions = Mapping[str, str | None]


def requests_of(users: Sequence[str]) -> list[Request]:
    return [Request("/", {"x-user-id": user}) for user in users]


def by_user(envoy: Envoy, users: Sequence[str] = USERS) -> Versions:
    """Returns the version that responded to each user, whatever the status."""
    answers = drive(envoy.port(), requests_of(users))
    return dict(zip(users, (answer.version for answer in answers), strict=True))


def share(versions: Versions, version: str = "v2") -> float:
    """Returns the share of users with this version, in percent."""
    return 100 * list(versions.values()).count(version) / len(versions)


def moves(before: Versions, after: Versions) -> set[tuple[str | None, str | None]]:
    """Returns the pairs of versions, before and after, between which users have moved."""
    return {(before[user], after[user]) for user in before if before[user] != after[user]}


@dataclass(frozen=True)
class Round:
    """One request of every user. Times are Unix times in seconds, as in a policy."""

    begun: float
    ended: float
    versions: Versions


def watch(
    envoy: Envoy, over: Callable[[Versions], bool], timeout: float = 20.0, what: str = "the end", same: int = 3
) -> list[Round]:
    """Repeats rounds until one passes `over` and `same` rounds in a row are equal, as then all workers agree."""
    rounds: list[Round] = []

    def settled() -> bool:
        begun = time.time()
        versions = by_user(envoy)
        rounds.append(Round(begun, time.time(), versions))
        latest = [each.versions for each in rounds[-same:]]
        return len(latest) == same and over(versions) and all(each == versions for each in latest)

    until(settled, timeout, what)
    return rounds


def went_back(rounds: Sequence[Round], version: str, lag: float) -> set[str]:
    """Returns the users who had the version and had another one at least `lag` seconds later.

    With one worker, use a lag of 0. With several, one worker may be a tick behind.
    """
    return {
        user
        for index, earlier in enumerate(rounds)
        for later in rounds[index + 1 :]
        if later.begun >= earlier.ended + lag
        for user, got in earlier.versions.items()
        if got == version and later.versions[user] != version
    }
