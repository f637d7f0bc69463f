"""From archives and tables to batches of images, and from predictions to a submission."""
