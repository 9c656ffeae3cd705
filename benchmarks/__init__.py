"""What is measured, and against whom; see README.md."""
