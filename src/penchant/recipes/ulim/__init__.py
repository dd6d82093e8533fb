"""Recipes of ULIM and the tables of results."""
