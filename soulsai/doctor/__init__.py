"""What is wrong between here and the server, and how to mend it."""
