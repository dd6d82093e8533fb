"""The commands of `penchant`, a module for each part of the way. `cli.py` imports the one it needs."""
