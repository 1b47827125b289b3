"""Cabinets: reading with every method of compression that symbol servers use, and writing."""
