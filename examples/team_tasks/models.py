"""The one table, in every partition."""

from uuid import UUID

from sqlmodel import Field, SQLModel

from localstore import uuid7

__all__ = ["Task"]


class Task(SQLModel, table=True):
    """Something to do. Who sees it is said by the partition that it is in, and not by the row."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    task_name: str
    assignee: str | None = None
    is_done: bool = False
