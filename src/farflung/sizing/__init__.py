"""What a run will need and how fast it will be: estimates from the spec alone. Pure."""
