"""``rarepixel demo``: train a Siamese damage model on synthetic or real xBD tiles, and see what it learns.

The parts are ordinary PyTorch code, to read and to copy from: ``model``, ``losses``, ``data``, ``training``.
"""
