"""Athalye, Carlini and Wagner: Obfuscated gradients give a false sense of security, 2018."""
