"""Whole funnels: how they are trained and judged, what their scores are worth as chances, and their table."""
