"""What can be chosen about accounts. A value; where it comes from is for the hub's settings to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from localstore.hub.access import Access
from localstore.hub.accounts.limits import Limit

__all__ = ["AccountsOptions"]


@dataclass(frozen=True, kw_only=True)
class AccountsOptions:
    """How people log in, and what they may do.

    Attributes:
        anonymous: whether somebody without an account may log in, as a new user each time.
        access_seconds: how long an access token lives.
        log_in_days: after how many days without a sign of life a log-in ends.
        default_partition: the partition that everybody may use who has no grant that says otherwise,
        default_access: and what for. Other partitions are closed to all without a grant.
        authorize: ``module:function``, a rule that is asked before grants are.
        issuers: a TOML file with the services whose JSON Web Tokens are taken.
        tries_by_address, tries_by_email: how often one may fail to log in.
    """

    anonymous: bool = False
    access_seconds: float = 1800.0
    log_in_days: float = 90.0
    default_partition: str = "default"
    default_access: Access = Access.WRITE
    authorize: str | None = None
    issuers: Path | None = None
    tries_by_address: Limit = field(default=Limit(30, 2.0))
    tries_by_email: Limit = field(default=Limit(10, 15.0))
