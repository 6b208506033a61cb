"""The to-do list's one table."""

from uuid import UUID

from sqlmodel import Field, SQLModel

from localstore import uuid7

__all__ = ["Task"]


class Task(SQLModel, table=True):
    """Something to do, and who does it."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    task_name: str
    assignee: str | None = None
    progress_minutes: int = 0
