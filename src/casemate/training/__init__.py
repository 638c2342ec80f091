"""Training: one loop (`train.py`), one objective a file, recipes in YAML."""
