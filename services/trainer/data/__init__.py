"""Data sets of every kind: read by one class, cleaned, and built anew."""
