"""Fewer and smaller evaluations of the transformer in one sampling run, one idea per file.

`control` decides which steps are computed, `shortcuts` whether a KV cache or active tokens are exact enough, and `run`
connects all parts.
"""
