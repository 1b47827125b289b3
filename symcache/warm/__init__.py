"""The main job: plan what modules need, carry it out, report what became of it."""
