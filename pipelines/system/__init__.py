"""Files, processes, signals, memory, progress and errors; imports nothing else of this project."""
