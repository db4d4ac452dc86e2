"""Faces that other systems know, in front of the engine."""
