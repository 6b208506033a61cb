"""One device that writes to an SQL log until it is killed: ``python -m tests.integration.sql_writer URL DEVICE SEED``.

Each line it prints is the number up to which it was told that everything is stored.
"""

from __future__ import annotations

import asyncio
import random
import sys

from localstore.adapter import Hello
from localstore.testing.conformance import Line
from localstore_adapters.sql import SqlAdapter

_BATCH_MAX = 4


async def write(url: str, device: bytes, chance: random.Random) -> None:
    adapter = SqlAdapter.from_url(url)
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
    asyncio.run(write(sys.argv[1], bytes.fromhex(sys.argv[2]), random.Random(sys.argv[3])))
