"""Madry, Makelov, Schmidt, Tsipras and Vladu: Towards deep learning models resistant to adversarial attacks, 2018."""
