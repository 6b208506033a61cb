"""The hub's users and their rights, kept in an SQL database: ``SqlAccounts`` is what ``localstore.hub.access`` asks for.

Decisions are in ``names``, ``tokens``, ``limits`` and ``issuers``; what SQL says in ``people``, ``log_ins`` and ``grants``; put
together in ``sql_accounts``. Nothing here knows HTTP or the log.
"""
