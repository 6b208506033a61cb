"""The hub: users, rules and HTTP in front of any log that devices share. Nothing of it is loaded by ``import localstore``."""
