"""T2Diff: a two-tower model whose user tower guesses the next item by diffusion. See README.md."""
