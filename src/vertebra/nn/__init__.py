"""Small layers with two or more users."""
