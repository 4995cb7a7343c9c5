"""Labelled sheets of pictures over two settings."""
