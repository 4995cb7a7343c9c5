"""Figures that say how good a model is: of speech, of pictures."""
