"""What meta-training minimises, for T tasks: one file a defense, each ending in PRESETS."""
