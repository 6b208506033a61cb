"""Adapters that ship with localstore, one module a backend; each imports only the contract and its own library."""
