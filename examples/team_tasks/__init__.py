"""Two people, the tasks of their team and the private ones of each, over a hub."""
