"""What adapters and applications test with: a remote in memory, faults on purpose, a clock moved by hand, the adapter rules.

* ``localstore.testing.memory``: a whole remote in this process; also the URL ``memory://name``
* ``localstore.testing.memory_users``: the same with users who log in
* ``localstore.testing.memory_snapshots``: the same with snapshots
* ``localstore.testing.faulty``: any adapter, with faults where a plan puts them
* ``localstore.testing.clock``: time that stands still until it is told to move
* ``localstore.testing.conformance``: the adapter contract as a pytest suite; needs ``pip install 'localstore-sync[testing]'``

Nothing is imported here: ``memory://`` remotes are used by running applications, where pytest is not installed.
"""

from __future__ import annotations

import sys

__all__: list[str] = []

# Without this a failed rule is a bare AssertionError. Only where pytest is at work already: applications pay nothing.
_pytest = sys.modules.get("pytest")
if _pytest is not None:
    _pytest.register_assert_rewrite("localstore.testing.conformance")
