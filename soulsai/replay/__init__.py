"""Storage of experience for off-policy learners."""
