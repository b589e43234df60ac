"""Attacks: one file each, ending with PRESETS."""
