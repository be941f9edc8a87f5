"""What people read: tables, figures, pages; all made from records."""
