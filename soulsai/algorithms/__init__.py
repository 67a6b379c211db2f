"""Algorithms; ``registry`` lists those that are built in, and ``build`` makes one."""
