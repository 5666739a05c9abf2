"""The mathematics of FLUX.1 Kontext, independent of ComfyUI. ARCHITECTURE.md has a map of the modules.

Import the module you need; nothing is re-exported here.
"""
