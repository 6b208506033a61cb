"""A to-do list: the life of one sync session, from opening a realm to leaving sync for good."""
