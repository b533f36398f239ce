"""What a terminal shows of a run: pure functions from the window's JSON and a width to lines."""
