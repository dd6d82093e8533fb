"""A generated market whose truth is known: its language, its pictures, its people and what they do."""
