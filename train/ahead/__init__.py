"""Compiling a recipe for devices that are not there: whether it fits them, and what it would do all day."""
