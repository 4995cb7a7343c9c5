"""Teaching Whisper a voice, a language or a vocabulary: data, weights, publishing."""
