"""What is known of a cell: one file, and one row of the table."""
