"""Mirman et al. 2018: differentiable abstract interpretation."""
