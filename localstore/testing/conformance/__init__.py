"""The adapter contract as a pytest suite: subclass, write one fixture, run.

    from localstore.testing.conformance import AdapterConformance

    class TestMyAdapter(AdapterConformance):
        powers = frozenset({"offline", "watch"})
        skips = frozenset({"wipe", "refuse", "trim", "ping", "snapshots"})

        @pytest.fixture
        def remote(self):
            return MyRemote(...)      # fresh and empty; see RemoteUnderTest

Each test is one rule of ``localstore.adapter`` and carries its sentence as its name. A rule whose power the subclass does not
have is skipped with the reason; where the environment variable ``CI`` is set, a skip that is not in ``skips`` fails, so that
a rule cannot go missing unnoticed. ``UsersConformance`` has the rules for a remote
with users, to be inherited as well. Needs ``pip install 'localstore-sync[testing]'``.
"""

from __future__ import annotations

import importlib.util

if not all(map(importlib.util.find_spec, ("pytest", "hypothesis"))):
    raise ImportError("The conformance suite needs pytest and hypothesis: pip install 'localstore-sync[testing]'")

from localstore.testing.conformance.cancelling import CancellingRules
from localstore.testing.conformance.connecting import ConnectingRules
from localstore.testing.conformance.converging import ConvergingRules
from localstore.testing.conformance.failing import FailingRules
from localstore.testing.conformance.pinging import PingingRules
from localstore.testing.conformance.pulling import PullingRules
from localstore.testing.conformance.pushing import PushingRules
from localstore.testing.conformance.remote import POWERS, CanBeWiped, CanGoOffline, CanRefuse, CanTrim, RemoteUnderTest
from localstore.testing.conformance.several import SeveralDevicesRules
from localstore.testing.conformance.snapshotting import SnapshottingRules
from localstore.testing.conformance.suite import Line, make_changeset, new_device
from localstore.testing.conformance.users import RemoteWithUsers, UsersConformance
from localstore.testing.conformance.watching import WatchingRules

__all__ = [
    "POWERS",
    "SUITE_VERSION",
    "AdapterConformance",
    "CanBeWiped",
    "CanGoOffline",
    "CanRefuse",
    "CanTrim",
    "Line",
    "RemoteUnderTest",
    "RemoteWithUsers",
    "UsersConformance",
    "make_changeset",
    "new_device",
]

SUITE_VERSION = 4
"""Goes up when a rule is added or sharpened, so that an adapter can say which suite it has passed."""


class AdapterConformance(
    ConnectingRules,
    PushingRules,
    PullingRules,
    SeveralDevicesRules,
    FailingRules,
    CancellingRules,
    WatchingRules,
    PingingRules,
    SnapshottingRules,
    ConvergingRules,
):
    """All rules. Its name does not begin with ``Test``, so that importing it collects nothing."""
