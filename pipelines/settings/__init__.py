"""Settings, file layout and records."""
