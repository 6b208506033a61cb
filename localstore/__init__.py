"""localstore: a local-first store for Python applications."""
