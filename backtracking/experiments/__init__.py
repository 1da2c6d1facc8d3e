"""Config in, saved run out."""
