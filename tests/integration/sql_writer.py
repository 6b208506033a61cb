"""One device that writes to an SQL log until it is killed: ``python -m tests.integration.sql_writer URL DEVICE SEED``.

With ``planted`` behind that it does so by an adapter that has a bug. Each line it prints is the number up to which it was told
that everything is stored.
"""

from __future__ import annotations

import asyncio
import random
import sys

from localstore.adapter import Hello
from localstore.testing.conformance import Line
from localstore_adapters.sql import SqlAdapter
from tests.integration.sql_planted import Sequential

_BATCH_MAX = 4


async def write(adapter: SqlAdapter, device: bytes, chance: random.Random) -> None:
    hello = Hello(app="torture", partition="default", device=device)
    line = Line(adapter, hello, await adapter.connect(hello))
    last = line.welcome.last_number
    print(last, flush=True)  # noqa: T201 - what its parent reads
    while True:
        again = chance.randrange(2) if last else 0  # as after a lost answer
        result = await line.push(last + 1 - again, last + chance.randint(1, _BATCH_MAX))
        last = result.acknowledged
        print(last, flush=True)  # noqa: T201


if __name__ == "__main__":
    adapter = (Sequential if "planted" in sys.argv else SqlAdapter).from_url(sys.argv[1])
    asyncio.run(write(adapter, bytes.fromhex(sys.argv[2]), random.Random(sys.argv[3])))
