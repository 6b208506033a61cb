"""One SQLite file: engine, capture, outbox, merge, apply, copy and layout. Knows no network."""
