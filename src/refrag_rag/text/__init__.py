"""Pure text and token ids: no torch here."""
