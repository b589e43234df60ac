"""How a learner adapts to one task: one file an algorithm, each ending in PRESETS."""
