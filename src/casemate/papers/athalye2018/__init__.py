"""Athalye, Carlini and Wagner: Obfuscated gradients give a false sense of security, ICML 2018."""
