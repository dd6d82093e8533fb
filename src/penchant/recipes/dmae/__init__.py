"""Recipes of DMAE and of the rankers beside it, and the tables of results."""
