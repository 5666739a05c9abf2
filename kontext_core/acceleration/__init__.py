"""Fewer and smaller evaluations of the transformer in one sampling run: one idea a file.

`plan` says what each step computes, `run` does it and keeps the run's state; the others are the means.
"""
