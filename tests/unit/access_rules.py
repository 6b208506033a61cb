"""Rules of an application, as settings name them; for tests."""

from __future__ import annotations

import asyncio

from localstore.hub.access import Access, Person

NOT_A_RULE = 3
asked: list[tuple[str, str]] = []
entered = asyncio.Event()


def by_domain(user: Person, partition: str) -> Access | None:
    """Teams of example.com are open to its people; of others nothing is known here."""
    asked.append((user.user_id, partition))
    if not partition.startswith("team-"):
        return None
    return Access.READ if (user.email or "").endswith("@example.com") else Access.NONE


async def by_domain_later(user: Person, partition: str) -> Access | None:
    return by_domain(user, partition)


def fails(user: Person, partition: str) -> Access:
    raise RuntimeError(f"cannot tell about {partition}")


async def fails_later(user: Person, partition: str) -> Access:
    raise RuntimeError(f"cannot tell about {partition}")


def answers_nonsense(user: Person, partition: str) -> object:
    return True


async def never_answers(user: Person, partition: str) -> Access:
    entered.set()
    await asyncio.Event().wait()
    return Access.WRITE
