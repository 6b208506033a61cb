"""One SQLite file: engine, capture, outbox, merge, apply, copy and layout. Knows no network and no event loop."""
