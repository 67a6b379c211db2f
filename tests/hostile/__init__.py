"""One client with an invite attacks a whole system; ``python -m tests.hostile`` measures it."""
