"""What makes the demo models, from their text to their weights: `python -m tools.demo_models PART`."""
