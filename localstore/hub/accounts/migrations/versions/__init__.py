"""The revisions of the layout of accounts, in order."""
