"""What is known of a cell, as one file and as a row of the table."""
