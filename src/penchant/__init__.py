"""Penchant: a personalized search and recommendation funnel, from raw logs to a served list."""

__version__ = "0.1.0"
