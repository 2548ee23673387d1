"""What this machine has: cores, memory, a folder for what was made on it."""
