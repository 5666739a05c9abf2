"""The only package that touches ComfyUI's internals (0.30.0 and later). ARCHITECTURE.md has a map of the modules.

Import the module you need; nothing is re-exported here.
"""
