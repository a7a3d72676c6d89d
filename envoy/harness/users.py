"""Records which version each user gets, at one time and over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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


def watch(
    envoy: Envoy, over: Callable[[Versions], bool], timeout: float = 20.0, what: str = "the end", same: int = 3
) -> Versions:
    """Asks until `over` holds and `same` rounds in a row are equal, as then all workers agree."""
    seen: list[Versions] = []

    def settled() -> bool:
        seen.append(by_user(envoy))
        latest = seen[-same:]
        return len(latest) == same and over(latest[-1]) and all(each == latest[-1] for each in latest)

    until(settled, timeout, what)
    return seen[-1]
