"""KARMA's recipes: a run and its stages, and the tables of results."""
