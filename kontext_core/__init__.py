"""FLUX.1 Kontext and its mathematics, without ComfyUI. ARCHITECTURE.md has a map of the modules.

Import the module you need; nothing is re-exported here.
"""
