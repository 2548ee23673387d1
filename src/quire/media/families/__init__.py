"""Model families: how each writes a picture, a clip or a sound in its prompt. One file a family."""
