"""The commands of `penchant`, a module for each part of the way; `main.py` imports the one it needs."""
