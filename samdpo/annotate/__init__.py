"""What people say: the page on which they rank, and its database."""
