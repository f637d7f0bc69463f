"""Everything a person runs beside the six stages."""
