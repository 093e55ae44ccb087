"""Translation: a sentence for a sentence, by an encoder and a decoder with attention."""

DEFAULT = "transformer"
