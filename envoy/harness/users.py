"""Which version each user gets, at once and over time."""

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
    """The version that answered each user, whether or not it served them."""
    answers = drive(envoy.port(), requests_of(users))
    return dict(zip(users, (answer.version for answer in answers), strict=True))


def share(versions: Versions, version: str = "v2") -> float:
    """In percent."""
    return 100 * list(versions.values()).count(version) / len(versions)


def moves(before: Versions, after: Versions) -> set[tuple[str | None, str | None]]:
    """From which version to which one users have moved."""
    return {(before[user], after[user]) for user in before if before[user] != after[user]}


def watch(
    envoy: Envoy, over: Callable[[Versions], bool], timeout: float = 20.0, what: str = "the end", same: int = 3
) -> Versions:
    """Ask until what the users get is as wanted and the same so many times in a row: then all workers know."""
    seen: list[Versions] = []

    def settled() -> bool:
        seen.append(by_user(envoy))
        latest = seen[-same:]
        return len(latest) == same and over(latest[-1]) and all(each == latest[-1] for each in latest)

    until(settled, timeout, what)
    return seen[-1]
