"""Gowal et al.: On the effectiveness of interval bound propagation for training verifiably robust models, 2018."""
