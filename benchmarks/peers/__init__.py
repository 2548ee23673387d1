"""quire beside the other engines of a CPU, each in a process and an environment of its own."""
