"""Recognise what a competition is from its raw folder, and write the TOML that says so."""
