"""From result files to pages: `docs/results.md`, and findings told in words."""
