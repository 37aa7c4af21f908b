"""The inner package; the real one has the compiled `_pyhailort` here."""
