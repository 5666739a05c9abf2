"""Measurements against ComfyUI's own Kontext path, both sides in one run: `manage.py bench [NAME]`."""
