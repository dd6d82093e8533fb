"""Recipes of T2Diff and its tables of results."""
