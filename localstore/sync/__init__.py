"""Sync sessions: what may be synced, when, and what to do when it fails. Knows the adapter contract, not an adapter."""
