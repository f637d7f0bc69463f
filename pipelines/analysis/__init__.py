"""Pictures, duplicates, suspect labels and scores."""
