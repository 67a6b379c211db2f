"""Find faults between this machine and the server, and name the remedy of each."""
