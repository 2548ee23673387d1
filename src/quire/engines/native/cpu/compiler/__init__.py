"""From kernels, which are Python functions, to machine code: the language, its translation, object files."""
