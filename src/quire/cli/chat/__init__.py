"""`quire chat`: a conversation in the terminal, or one answer to piped input."""
