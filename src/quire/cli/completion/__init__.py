"""`quire completion`: scripts by which bash, zsh and fish complete quire's words."""
