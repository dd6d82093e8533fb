"""ULIM: User Long-Term Multi-Interest Retrieval Model for Recommendation."""
