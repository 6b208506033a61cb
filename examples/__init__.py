"""Small real applications of localstore; ``python -m examples.<name>`` runs one."""
