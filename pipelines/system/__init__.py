"""Files, processes, signals, memory and errors: the ground floor, which imports nothing else of ours."""
