"""Fewer and smaller evaluations of the transformer in one sampling run: one idea a file.

`control` decides which steps are computed, `shortcuts` whether kept keys and values will do, `run` holds all together.
"""
