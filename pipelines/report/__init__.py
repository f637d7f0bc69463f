"""What the finished runs of a competition show together: a table of them, comparisons, and one page."""
