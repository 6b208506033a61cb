"""Two people share their team's tasks over a hub, and keep others to themselves: ``python -m examples.team_tasks``.

Starts a hub with two users, lets both work with the partition ``team-7`` and with their private ones, and shows what each of
them sees, and what somebody else's partition answers.
"""

import argparse
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import col, select

from examples.team_tasks import hub
from examples.team_tasks.models import Task
from localstore import App, Credentials, Realm, Settings, SyncConfiguration, User
from localstore.errors import ProtocolError

TEAM = "team-7"
WAIT_SECONDS = 30


def main() -> int:
    """Set up a hub with two users, and let them work."""
    parser = argparse.ArgumentParser(prog="python -m examples.team_tasks", description=__doc__)
    parser.add_argument("--dir", type=Path, help="where all files go, an empty directory; a fresh one when not given")
    directory = (parser.parse_args().dir or Path(tempfile.mkdtemp(prefix="localstore-team-tasks-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        parser.error(f"{directory} is not empty.")
    store, password = f"sqlite:///{directory / 'hub.db'}", secrets.token_urlsafe()
    for email in ("emma@example.com", "kevin@example.com"):
        hub.command(store, "user", "add", email, "--password-file", "-", typed=password)
    hub.command(store, "grant", "*", TEAM, "write")  # everybody who has no grant of their own
    with (
        hub.serving(store, directory / "hub.log") as address,
        person("emma", address, password, directory) as emma,
        person("kevin", address, password, directory) as kevin,
    ):
        work_together(emma, kevin)
        work_alone(emma, kevin)
        look_at_a_private_partition(kevin, emma)
    print(f"All files are in {directory}.")
    return 0


@dataclass
class Person:
    """Somebody at a device of their own.

    Attributes:
        name: theirs.
        user: as whom they are logged in.
        team: the tasks that the team shares.
        own: the tasks that nobody else sees.
    """

    name: str
    user: User
    team: Realm
    own: Realm


@contextmanager
def person(name: str, address: str, password: str, directory: Path) -> Iterator[Person]:
    """Log in and open both partitions. Each is a realm, with a file and a sync session of its own."""
    with App.create("team-tasks", remote=address, settings=Settings(directory=str(directory / name))) as app:
        user = app.login(Credentials.email_password(f"{name}@example.com", password))
        with open_partition(user, TEAM) as team, open_partition(user, private(user)) as own:
            yield Person(name.title(), user, team, own)


def private(user: User) -> str:
    """The partition that a user has without any grant, and nobody else."""
    return f"user:{user.id}"


def open_partition(user: User, partition: str) -> Realm:
    """What is written there goes to the hub by itself, and what others write comes from it."""
    return Realm.open(SyncConfiguration(user, schema={Task}, partition=partition))


def work_together(emma: Person, kevin: Person) -> None:
    """One adds a task, the other does it."""
    with emma.team.write() as tx:
        tx.add(Task(task_name="Review proposal", assignee="Kevin"))
    hand_over(emma.team, kevin.team)
    with kevin.team.write() as tx:
        for task in tx.exec(select(Task).where(Task.assignee == "Kevin")):
            task.is_done = True
    hand_over(kevin.team, emma.team)
    show(emma, "the team's", emma.team)


def work_alone(*people: Person) -> None:
    """Everybody adds a task of their own."""
    for somebody in people:
        with somebody.own.write() as tx:
            tx.add(Task(task_name=f"Call {somebody.name}'s dentist"))
        somebody.own.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
    for somebody in people:
        somebody.own.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        show(somebody, "their own", somebody.own)


def look_at_a_private_partition(who: Person, whose: Person) -> None:
    """The hub says no, whatever a device asks for."""
    with open_partition(who.user, private(whose.user)) as realm:
        try:
            realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        except ProtocolError as error:
            print(f"{who.name} asks for {whose.name}'s: {error.message}")
        show(who, f"{whose.name}'s", realm)


def hand_over(source: Realm, target: Realm) -> None:
    """Wait until what one device has is on another. An application need not: it is told when something comes."""
    assert source.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
    assert target.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)


def show(somebody: Person, whose: str, realm: Realm) -> None:
    """What somebody sees in a partition."""
    tasks = realm.exec(select(Task).order_by(col(Task.id))).all()
    told = ", ".join(f"{task.task_name} ({'done' if task.is_done else 'to do'})" for task in tasks) or "nothing"
    print(f"{somebody.name} sees of {whose} tasks: {told}")


if __name__ == "__main__":
    sys.exit(main())
