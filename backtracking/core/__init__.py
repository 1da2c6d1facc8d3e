"""Plain values and arithmetic: no model, no device."""
