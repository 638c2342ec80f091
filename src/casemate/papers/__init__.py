"""One folder per paper: its recipes, its figures and tables, and what came with it."""
