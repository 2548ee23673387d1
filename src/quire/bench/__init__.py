"""`quire bench`: what a configuration gives, alone or beside another."""
